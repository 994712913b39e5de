// SPDX-License-Identifier: Apache-2.0

// Package mapping handles what is live in the kernel: the mappings of a volume, private
// until their key is proved, and the stack of mappings of a rotation.
//
//	kernel.go    the parts of the system that mappings are made with
//	prove.go     is this the volume's key? By the check area or by the filesystem
//	compare.go   is the live mapping this volume's?
//	users.go     who else uses the device
//	stack.go, hold.go   the mappings of a rotation, and holding a zone of it
package mapping

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/keyring"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// Private mappings have a character that volume names cannot contain, so they never
// collide with a volume's own.
const (
	CheckSuffix = ":check"
	MkfsSuffix  = ":mkfs"
)

// DataTable returns the table of the volume's data.
func DataTable(h *header.Header, s spec.Volume, data blockdev.Number, key dmcrypt.KeyRef) (dmcrypt.Table, error) {
	if h.InPlaintext() {
		return plainTable(h, data), nil
	}
	flags := slices.Clone(s.CryptFlags)
	if s.AllowDiscards {
		flags = append(flags, "allow_discards")
	}
	return table(h, Area{Device: data, Offset: h.Segment.Offset, Size: h.Segment.Size}, key, flags)
}

// plainTable returns the table of plaintext data. If the header is on the device, the
// first bytes are elsewhere.
func plainTable(h *header.Header, data blockdev.Number) dmcrypt.Table {
	piece := func(start, end, at int64) dmcrypt.Linear {
		return dmcrypt.Linear{
			Start: uint64(start / header.SectorBytes), Length: uint64((end - start) / header.SectorBytes),
			Device: data, Offset: uint64(at / header.SectorBytes),
		}
	}
	if h.Moved == 0 {
		return dmcrypt.Table{piece(0, h.Segment.Size, h.Segment.Offset)}
	}
	area := h.LUKS.Area()
	return dmcrypt.Table{piece(0, area, h.Moved), piece(area, h.Segment.Size, h.Segment.Offset+area)}
}

// Area is a range of a device in bytes, with the sector number at which its IVs begin.
type Area struct {
	Device       blockdev.Number
	Offset, Size int64
	ivOffset     uint64 // 512-byte units
}

// table maps one area with the volume's cipher.
func table(h *header.Header, a Area, key dmcrypt.KeyRef, flags []string) (dmcrypt.Table, error) {
	options, err := dmcrypt.CryptOptions(h.Segment.SectorSize, flags...)
	if err != nil {
		return nil, err
	}
	return dmcrypt.Table{dmcrypt.Crypt{
		Length: uint64(a.Size / header.SectorBytes), Cipher: dmcrypt.Cipher(h.Segment.Encryption), Key: key, IVOffset: a.ivOffset,
		Device: a.Device,
		Offset: uint64(a.Offset / header.SectorBytes), Options: options,
	}}, nil
}

// KeyType returns the kernel's type of a header's key.
func KeyType(h *header.Header) string {
	if h.Token.Source == spec.SourceTrusted {
		return "trusted"
	}
	return "logon"
}

// Description returns the name that a live table has for a header's key.
func Description(h *header.Header) string {
	return keyring.Describe(h.LUKS.UUID, h.Token.Generation)
}

// Kernel is the part of the system that mappings are made with.
type Kernel struct {
	Devices Devices
	Mapper  Mapper
	// Attach makes a read-only device of an image in a file; nil if there are no images.
	Attach func(path string) (device string, closer io.Closer, err error)
}

// Private is a mapping that this run made and that is not public yet.
type Private struct {
	K    Kernel
	Name string
	Num  dmcrypt.Number
}

// Activate makes a private mapping of table(key). It first removes what a killed run
// left; if that is open, it belongs to someone else, and Activate fails.
func (k Kernel) Activate(ctx context.Context, name, uuid, description string, key source.Key, readOnly bool, table func(dmcrypt.KeyRef) (dmcrypt.Table, error)) (*Private, error) {
	if err := k.RemoveLeftover(ctx, name, uuid); err != nil {
		return nil, err
	}
	a := &Private{K: k, Name: name}
	err := key.Use(description, func(ref dmcrypt.KeyRef) error {
		t, err := table(ref)
		if err != nil {
			return err
		}
		a.Num, err = k.Mapper.Activate(ctx, name, uuid, t, readOnly)
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// WithPrivate calls use with a private mapping of table(key), which is removed when use
// returns. uuid and generation are those of the header that the key belongs to.
func (k Kernel) WithPrivate(ctx context.Context, name, uuid string, generation int, key source.Key, readOnly bool, table func(dmcrypt.KeyRef) (dmcrypt.Table, error), use func(*Private) error) (err error) {
	a, err := k.Activate(ctx, name, dmcrypt.HelperUUID(uuid, name), keyring.Describe(uuid, generation), key, readOnly, table)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Remove(ctx)) }()
	return use(a)
}

// WithData is WithPrivate for a volume's data, read-only.
func (k Kernel) WithData(ctx context.Context, s spec.Volume, h *header.Header, data blockdev.Number, key source.Key, use func(*Private) error) error {
	return k.WithPrivate(ctx, s.Mapping+CheckSuffix, h.LUKS.UUID, h.Token.Generation, key, true, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return DataTable(h, s, data, ref)
	}, use)
}

// RemoveLeftover removes a mapping that a killed run left; one with another uuid is an
// error.
func (k Kernel) RemoveLeftover(ctx context.Context, name, uuid string) error {
	info, err := k.Mapper.Info(name)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.UUID != uuid {
		return fault.Newf(fault.MappingMismatch, "mapping %s exists and is not imxcrypt's: uuid %q", name, info.UUID)
	}
	return k.Mapper.Remove(ctx, name)
}

// Remove removes the mapping, even if ctx was cancelled: a run cleans up what it made.
func (a *Private) Remove(ctx context.Context) error {
	return a.K.Mapper.Remove(context.WithoutCancel(ctx), a.Name)
}

// Node returns the kernel's own name of the mapped device, which exists without udev and
// before the mapping is announced.
func (a *Private) Node() string { return fmt.Sprintf("/dev/dm-%d", a.Num.Minor) }

// Open opens the mapped device bypassing the page cache: what is read comes through the
// key, not from a cache that another mapping filled.
func (a *Private) Open(write bool) (header.Device, error) {
	return a.K.Devices.Open(a.Node(), blockdev.Flags{Write: write, Direct: true})
}
