// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
)

// container is a volume's storage, opened: the device with the data, and what
// the header lies on, which is the same device or a file.
type container struct {
	data   Device
	header Device
	// erased looks for the record of an erase; nil where nobody asks for it.
	erased func() (eraseRecord, bool, error)
}

// detached tells whether the header lies apart from the data.
func (c *container) detached() bool { return c.header != c.data }

func (c *container) close() error {
	var err error
	if c.header != nil && c.header != c.data {
		err = c.header.Close()
	}
	return errors.Join(err, c.data.Close())
}

// openContainer opens the device at path, and a detached header if the volume
// has one. A missing header file is an error of code not-provisioned.
func (m *Manager) openContainer(s Spec, path string, f blockdev.Flags) (*container, error) {
	data, err := m.sys.Devices.Open(path, f)
	if err != nil {
		return nil, err
	}
	// A file is never taken for a disk: device-mapper could not, and a header
	// written into it before that shows would be one too many.
	if data.Number() == (blockdev.Number{}) {
		return nil, errors.Join(refuse(fault.DeviceUnsuitable, "%s is a file, not a block device: put a loop device over it (losetup)", path), data.Close())
	}
	if err := m.notOwnMapping(s, data); err != nil {
		return nil, errors.Join(err, data.Close())
	}
	c := &container{data: data, header: data}
	c.erased = func() (eraseRecord, bool, error) { return m.eraseRecordOf(s, data) }
	if !s.Detached() {
		return c, nil
	}
	c.header, err = m.sys.Devices.Open(s.Header, blockdev.Flags{Write: f.Write})
	if err != nil {
		c.header = nil
		if errors.Is(err, fs.ErrNotExist) {
			err = c.explainErased(fault.New(fault.NotProvisioned, fmt.Sprintf("detached header %s is not there", s.Header), err))
		}
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// openHeader opens a volume's container and reads the header in it. The caller
// closes the container.
func (m *Manager) openHeader(s Spec, path string, f blockdev.Flags) (*container, *header, error) {
	c, err := m.openContainer(s, path, f)
	if err != nil {
		return nil, nil, err
	}
	h, err := readHeader(c)
	if err != nil {
		return nil, nil, errors.Join(err, c.close())
	}
	return c, h, nil
}

// onDevice runs an operation under the volume's lock, on the device found for it.
func (m *Manager) onDevice(ctx context.Context, s Spec, do func(path string) error) (err error) {
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

// onHeader is onDevice for an operation that begins with the volume's header. The
// container is closed when it ends.
func (m *Manager) onHeader(ctx context.Context, s Spec, f blockdev.Flags, j *journey, do func(*container, *header) error) error {
	return m.onDevice(ctx, s, func(path string) error {
		c, h, err := m.openHeader(s, path, f)
		if err != nil {
			return err
		}
		defer c.close()
		j.of(h, path)
		return do(c, h)
	})
}

// find waits for the volume's device, up to its timeout. Without a timeout, or
// with wait false, it looks once.
func (m *Manager) find(ctx context.Context, s Spec, wait bool) (string, error) {
	path, err := m.sys.Devices.Find(ctx, s.Device)
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
	// Looked again after the watch began, so that a device which came between
	// the first look and the watch is not waited for.
	for {
		path, err = m.sys.Devices.Find(ctx, s.Device)
		if err == nil || !fault.Is(err, fault.DeviceMissing) {
			return path, err
		}
		if waiting.Err() != nil {
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			return "", fmt.Errorf("after %v: %w", s.Timeout, err)
		}
		// An error is the deadline's, after which there is one more look, or the
		// kernel's, without whose announcements looking is all that is left.
		if watchErr := watch.Next(waiting); watchErr != nil && waiting.Err() == nil {
			return "", errors.Join(err, watchErr)
		}
	}
}
