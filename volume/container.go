// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/spec"
)

// openContainer opens the device at path, and a detached header if the volume
// has one. A missing header file is an error of code not-provisioned.
func (m *Manager) openContainer(s spec.Volume, path string, f blockdev.Flags) (*header.Storage, error) {
	if s.Ephemeral() {
		return nil, noHeader()
	}
	data, err := m.sys.Devices.Open(path, f)
	if err != nil {
		return nil, err
	}
	// A file may be looked at, but is never used as a disk: device-mapper could not map
	// it, and by the time that shows, a header would already have been written to it.
	if data.Number() == (blockdev.Number{}) && f != (blockdev.Flags{}) {
		return nil, errors.Join(fault.Newf(fault.DeviceUnsuitable, "%s is a file, and this kernel has no loop devices to attach it to", path), data.Close())
	}
	if err := m.kernel.NotOwnMapping(s, data); err != nil {
		return nil, errors.Join(err, data.Close())
	}
	c := &header.Storage{Data: data, Header: data}
	c.Erased = func() (header.EraseRecord, bool, error) { return m.eraseRecordOf(s, data) }
	if !s.Detached() {
		return c, nil
	}
	if err := m.trustHeader(s); err != nil {
		return nil, errors.Join(err, data.Close())
	}
	c.Header, err = m.sys.Devices.Open(s.Header, blockdev.Flags{Write: f.Write, Exclusive: f.Exclusive})
	if err != nil {
		c.Header = nil
		if errors.Is(err, fs.ErrNotExist) {
			err = c.ExplainErased(fault.New(fault.NotProvisioned, fmt.Sprintf("detached header %s is not there", s.Header), err))
		}
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// trustHeader applies the rules for the configuration file to a detached header that the
// configuration names: anyone who can write the file, or put another in its place,
// decides what the volume is. A file that a person names, to recover from, may be
// anyone's.
func (m *Manager) trustHeader(s spec.Volume) error {
	if s.Device == "" {
		return nil
	}
	err := m.sys.Files.Trusted(s.Header)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // opening reports that
	}
	return err
}

// openHeader opens a volume's container and reads the header in it. The caller
// closes the container.
func (m *Manager) openHeader(s spec.Volume, path string, f blockdev.Flags) (*header.Storage, *header.Header, error) {
	c, err := m.openContainer(s, path, f)
	if err != nil {
		return nil, nil, m.explainNoHeader(s, path, err)
	}
	h, err := header.Read(c)
	if err != nil {
		err = errors.Join(err, c.Close())
		return nil, nil, m.explainNoHeader(s, path, err)
	}
	return c, h, nil
}

// acquire takes the volume's lock. A dry run needs none.
func (m *Manager) acquire(ctx context.Context, s spec.Volume, dryRun bool) (release func() error, err error) {
	if dryRun {
		return func() error { return nil }, nil
	}
	return m.sys.Locks.Acquire(ctx, s.Name)
}

// onDevice runs an operation under the volume's lock, on the device found for it.
func (m *Manager) onDevice(ctx context.Context, s spec.Volume, do func(path string) error) (err error) {
	if s.Ephemeral() {
		return noHeader()
	}
	release, err := m.sys.Locks.Acquire(ctx, s.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	path, err := m.find(ctx, s, true)
	if err != nil {
		return err
	}
	return do(path)
}

// onHeader is onDevice for an operation that starts by reading the volume's header. The
// container is closed when the operation ends.
func (m *Manager) onHeader(ctx context.Context, s spec.Volume, f blockdev.Flags, j *runLog, do func(*header.Storage, *header.Header) error) error {
	return m.onDevice(ctx, s, func(path string) error {
		c, h, err := m.openHeader(s, path, f)
		if err != nil {
			return err
		}
		defer c.Close()
		j.identify(h, path)
		return do(c, h)
	})
}

// noticeAfter is how long find waits before it says so.
const noticeAfter = time.Second

// find waits for the volume's device, up to its timeout. Without a timeout, or
// with wait false, it looks once.
func (m *Manager) find(ctx context.Context, s spec.Volume, wait bool) (string, error) {
	path, err := m.findNow(ctx, s)
	if err == nil || !wait || s.Timeout <= 0 || !fault.Is(err, fault.DeviceMissing) {
		return path, err
	}
	watch, watchErr := m.sys.Waiter.Watch()
	if watchErr != nil {
		return "", errors.Join(err, watchErr)
	}
	defer watch.Close()
	waiting, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	// A person who is waiting sees what for; a device that is a moment late is not news.
	notice := time.AfterFunc(noticeAfter, func() {
		m.sys.Log.Warn("waiting for the device", "volume", s.Name, "device", s.Device, "timeout", s.Timeout)
	})
	defer notice.Stop()
	// Look again now that the watch has begun, for a device that appeared between the
	// first look and the watch.
	for {
		path, err = m.findNow(ctx, s)
		if err == nil || !fault.Is(err, fault.DeviceMissing) {
			return path, err
		}
		if waiting.Err() != nil {
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			return "", fmt.Errorf("after %v: %w", s.Timeout, err)
		}
		// At the deadline there is one more look. Any other error is the kernel's:
		// without its announcements there is nothing to wait for.
		if watchErr := watch.Next(waiting); watchErr != nil && waiting.Err() == nil {
			return "", errors.Join(err, watchErr)
		}
	}
}

// findNow looks once. If several devices match, as identical disks do, it takes the one
// whose header has the UUID that the configuration pins.
func (m *Manager) findNow(ctx context.Context, s spec.Volume) (string, error) {
	path, err := m.locate(ctx, s)
	var several *blockdev.AmbiguousError
	if s.UUID == "" || s.Detached() || !errors.As(err, &several) {
		return path, err
	}
	pinned := ""
	for _, candidate := range several.Candidates {
		c, h, openErr := m.openHeader(s, candidate, blockdev.Flags{})
		if openErr != nil {
			continue
		}
		if closeErr := c.Close(); closeErr != nil {
			return "", closeErr
		}
		if h.LUKS.UUID != s.UUID {
			continue
		}
		if pinned != "" {
			return "", err // a copy of a whole disk
		}
		pinned = candidate
	}
	if pinned == "" {
		return "", err
	}
	return pinned, nil
}

// headerWritable fails if a command that writes the header could not finish: the sequence
// number is used up, or something else is in the place of a copy.
func headerWritable(h *header.Header, c *header.Storage) error {
	if err := h.LUKS.Room(mapping.RoomForWrites); err != nil {
		return err
	}
	return h.LUKS.Unobstructed(c.Header)
}
