// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
)

// RecoverOptions say what is opened off its board, and with what.
type RecoverOptions struct {
	// Path is a block device or an image in a file.
	Path string
	// Header is the file of a detached header; empty: it is on the device.
	Header string
	// Name is the mapping's; empty: "recovered-" and the volume's name.
	Name string
	// Identities is an identity file of age. It is read once, when the header
	// has been found to have a recovery copy.
	Identities io.Reader
	// Progress is told of each step when it is done.
	Progress func(Step)
}

// recoveredPrefix keeps the default mapping apart from the volume's own.
const recoveredPrefix = "recovered-"

// Recover opens a volume read-only with its recovery copy, on any Linux machine:
// plain AES, no CAAM, no configuration. The plain key is in this process, and in
// the kernel while the mapping lives; the process is to end right after.
func (m *Manager) Recover(ctx context.Context, o RecoverOptions) (_ Result, err error) {
	s := Spec{Name: o.Path, Header: HeaderOnDevice}
	if o.Header != "" {
		s.Header = o.Header
	}
	j := m.begin(s, o.Progress)
	defer func() { err = failed(ctx, "recover", s, err) }()
	path, closer, err := m.attach(o.Path)
	if err != nil {
		return j.result, err
	}
	if closer != nil {
		defer func() { err = errors.Join(err, closer.Close()) }()
	}
	c, h, err := m.openHeader(s, path, blockdev.Flags{Direct: true})
	if err != nil {
		return j.result, err
	}
	defer c.close()
	j.of(h, o.Path)
	j.result.Volume = h.luks.Label
	s.Name, s.Mapping = h.luks.Label, o.Name
	if s.Mapping == "" {
		s.Mapping = recoveredPrefix + h.luks.Label
	}
	if err := dmcrypt.ValidateName(s.Mapping); err != nil {
		return j.result, fault.New(fault.Usage, "--name", err)
	}
	release, err := m.sys.Locks.Acquire(ctx, "recover-"+s.Mapping)
	if err != nil {
		return j.result, err
	}
	defer func() { err = errors.Join(err, release()) }()
	return j.result, m.recoverHeader(ctx, s, h, c, o, j)
}

// attach gives an image in a file a device; closer is nil for what is one.
func (m *Manager) attach(path string) (string, io.Closer, error) {
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return "", nil, err
	}
	isFile := dev.Number() == blockdev.Number{}
	if err := dev.Close(); err != nil || !isFile {
		return path, nil, err
	}
	if m.sys.Attach == nil {
		return "", nil, refuse(fault.DeviceUnsuitable, "%s is no block device", path)
	}
	return m.sys.Attach(path)
}

// recoverable refuses a header whose recovery copy would open only a part of the
// data, or nothing.
func (h *header) recoverable() error {
	if !h.token.Recovery.Made() {
		return refuse(fault.RecoveryMissing, "the volume %q has no recovery copy of its key", h.luks.Label)
	}
	if err := h.notRolledBack(); err != nil {
		return err
	}
	return h.keepable()
}

func (m *Manager) recoverHeader(ctx context.Context, s Spec, h *header, c *container, o RecoverOptions, j *journey) error {
	if err := h.recoverable(); err != nil {
		return err
	}
	if _, err := m.usedByUs(h, c.data); err != nil {
		return err
	}
	if _, err := m.sys.Mapper.Info(s.Mapping); err == nil {
		return refuse(fault.MappingMismatch, "mapping %s exists already; choose another name with --name", s.Mapping)
	} else if !errors.Is(err, dmcrypt.ErrNotFound) {
		return err
	}
	red, err := h.unseal(o.Identities)
	if err != nil {
		return err
	}
	key := newLogonKey(red, m.sys.Keyring)
	defer key.wipe()
	j.did("recovery copy opened")
	plain := h.plain()
	if err := m.provePlain(ctx, s, h, c, key); err != nil {
		return err
	}
	a, err := m.activate(ctx, s.Mapping, dmcrypt.VolumeUUID(h.luks.UUID, s.Mapping), h.description(), key, true, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return plain.dataTable(s, c.data.Number(), ref)
	})
	if err != nil {
		return err
	}
	if !h.check.InHeader() {
		err = provedByFilesystem(h, a)
	}
	if err == nil {
		err = m.sys.Mapper.Announce(ctx, s.Mapping)
	}
	if err != nil {
		return errors.Join(err, a.remove(ctx))
	}
	j.did("mapped read-only")
	j.result.Mapping = "/dev/mapper/" + s.Mapping
	return nil
}

// provePlain proves the plain key by the check area, where there is one.
func (m *Manager) provePlain(ctx context.Context, s Spec, h *header, c *container, key liveKey) error {
	if !h.check.InHeader() {
		return nil
	}
	block, err := m.readThrough(ctx, s, h.plain(), key, h.checkArea(c.header.Number()), h.check.Size)
	if err != nil {
		return fmt.Errorf("check the key: %w", err)
	}
	if !h.check.fits(block, h.binding()) {
		return refuse(fault.KeyWrong, "the recovery copy opened, but the check says that it is not this volume's key, or that the header was changed")
	}
	return nil
}

// provedByFilesystem is the proof of a detached header's key.
func provedByFilesystem(h *header, a *mapped) error {
	proved, err := h.proveByFilesystem(a)
	if proved {
		return nil
	}
	return fault.New(fault.KeyWrong, fmt.Sprintf("the recovery copy opened, but no %s filesystem %s is seen with it", h.token.Filesystem.Type, h.token.Filesystem.UUID), err)
}
