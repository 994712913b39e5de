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
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// RecoverOptions say what is opened without its board, and with what.
type RecoverOptions struct {
	// Path is a block device or an image in a file.
	Path string
	// Header is the file of a detached header; empty if the header is on the device.
	Header string
	// Name is the name of the mapping; empty means "recovered-" and the volume's name.
	Name string
	// Opener is used once the header is known to have a recovery copy.
	Opener
	// Progress is called after each step.
	Progress func(Step)
}

// recoveredPrefix distinguishes the default mapping from the volume's own.
const recoveredPrefix = "recovered-"

// Recover opens a volume read-only with its recovery copy, on any Linux machine: plain
// AES, no CAAM, no configuration. The plain key is in this process, and in the kernel
// while the mapping exists. The process should end right after.
func (m *Manager) Recover(ctx context.Context, o RecoverOptions) (_ Result, err error) {
	s := spec.Volume{Name: o.Path, Header: spec.HeaderOnDevice}
	if o.Header != "" {
		s.Header = o.Header
	}
	j := m.begin(s, o.Progress)
	defer func() { err = Failed(ctx, "recover", s, err) }()
	path, closer, err := m.attach(o.Path)
	if err != nil {
		return j.result, err
	}
	if closer != nil {
		defer func() { err = errors.Join(err, closer.Close()) }()
	}
	c, h, err := m.openHeader(s, path, blockdev.Flags{Direct: true})
	switch fault.CodeOf(err) {
	case "":
	case fault.PlaintextFound:
		return j.result, fault.Newf(fault.NoVolume, "%s holds a filesystem in plain text, not a volume", o.Path)
	case fault.NotProvisioned:
		return j.result, fault.Newf(fault.NoVolume, "%s holds no volume", o.Path)
	default:
		return j.result, err
	}
	defer c.Close()
	j.identify(h, o.Path)
	j.result.Volume = h.LUKS.Label
	s.Name, s.Mapping = h.LUKS.Label, o.Name
	if s.Mapping == "" {
		s.Mapping = recoveredPrefix + h.LUKS.Label
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

// attach gives an image file a device. closer is nil if path is a device already.
func (m *Manager) attach(path string) (string, io.Closer, error) {
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return "", nil, err
	}
	isFile, size := dev.Number() == blockdev.Number{}, dev.Size()
	if err := dev.Close(); err != nil || !isFile {
		return path, nil, err
	}
	if size < header.BlockAlign {
		return "", nil, fault.Newf(fault.NoVolume, "%s has %d bytes, too few for a volume", path, size)
	}
	if m.sys.Attach == nil {
		return "", nil, fault.Newf(fault.DeviceUnsuitable, "%s is not a block device", path)
	}
	return m.sys.Attach(path)
}

func (m *Manager) recoverHeader(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, o RecoverOptions, j *runLog) error {
	if err := h.Recoverable(); err != nil {
		return err
	}
	if _, err := m.kernel.UsedByUs(s, h, c.Data); err != nil {
		return err
	}
	if _, err := m.sys.Mapper.Info(s.Mapping); err == nil {
		return fault.Newf(fault.MappingMismatch, "mapping %s exists already; choose another name with --name", s.Mapping)
	} else if !errors.Is(err, dmcrypt.ErrNotFound) {
		return err
	}
	red, err := o.unseal(h)
	if err != nil {
		return err
	}
	key := source.NewLogonKey(red, m.sys.Keyring)
	defer key.Wipe()
	j.did("recovery copy opened")
	plain := h.WithRedKey()
	if err := m.provePlain(ctx, s, h, c, key); err != nil {
		return err
	}
	a, err := m.kernel.Activate(ctx, s.Mapping, dmcrypt.VolumeUUID(h.LUKS.UUID, s.Mapping), mapping.Description(h), key, true, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return mapping.DataTable(plain, s, c.Data.Number(), ref)
	})
	if err != nil {
		return err
	}
	if !h.Check.InHeader() {
		err = provedByFilesystem(s, h, a)
	}
	if err == nil {
		err = m.sys.Mapper.Announce(ctx, s.Mapping)
	}
	if err != nil {
		return errors.Join(err, a.Remove(ctx))
	}
	j.did("mapped read-only")
	j.result.Mapping = "/dev/mapper/" + s.Mapping
	return nil
}

// provePlain proves the plain key by the check, if there is one.
func (m *Manager) provePlain(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, key source.Key) error {
	if !h.Check.Exists() {
		return nil
	}
	block, err := m.kernel.ReadCheck(ctx, s, h.WithRedKey(), c, key)
	if err != nil {
		return fmt.Errorf("check the key: %w", err)
	}
	if !h.Check.Fits(block, h.Binding()) {
		return fault.Newf(fault.KeyWrong, "the recovery copy opened, but the check says that it is not this volume's key, or that the header was changed")
	}
	return nil
}

// provedByFilesystem proves that the device belongs to a detached header, and the
// header's key if it has no check.
func provedByFilesystem(s spec.Volume, h *header.Header, a *mapping.Private) error {
	_, err := mapping.ProveByFilesystem(s, h, a)
	if h.FilesystemSeen() {
		return h.PermitUnbound(s)
	}
	return fault.New(fault.KeyWrong, fmt.Sprintf("the recovery copy opened, but its key shows no %s filesystem %s", h.Token.Filesystem.Type, h.Token.Filesystem.UUID), err)
}
