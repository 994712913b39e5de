// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"context"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blank"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// CheckArea returns where the header's check is, on what holds the header.
func CheckArea(h *header.Header, on header.Device) Area {
	return Area{Device: on.Number(), Offset: header.BeginOf(on) + h.Check.Offset, Size: h.Check.Size, ivOffset: header.CheckIVOffset}
}

// ReadThrough reads the first n bytes of an area through a read-only private mapping with
// the key.
func (k Kernel) ReadThrough(ctx context.Context, s spec.Volume, h *header.Header, key source.Key, at Area, n int64) ([]byte, error) {
	block := make([]byte, n)
	err := k.withArea(ctx, s, h, key, at, false, func(d header.Device) error {
		_, err := d.ReadAt(block, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return block, nil
}

// WriteThrough writes a block to an area through a private mapping with the
// key, durably.
func (k Kernel) WriteThrough(ctx context.Context, s spec.Volume, h *header.Header, key source.Key, at Area, block []byte) error {
	return k.withArea(ctx, s, h, key, at, true, func(d header.Device) error {
		if _, err := d.WriteAt(block, 0); err != nil {
			return err
		}
		return d.Flush()
	})
}

func (k Kernel) withArea(ctx context.Context, s spec.Volume, h *header.Header, key source.Key, at Area, write bool, use func(header.Device) error) error {
	return k.WithPrivate(ctx, s.Mapping+CheckSuffix, h.LUKS.UUID, h.Token.Generation, key, !write, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return table(h, at, ref, nil)
	}, func(a *Private) error { return WithDevice(a, write, use) })
}

// WithDevice opens the mapped device, calls use and closes it.
func WithDevice(a *Private, write bool, use func(header.Device) error) error {
	d, err := a.Open(write)
	if err != nil {
		return err
	}
	return errors.Join(use(d), d.Close())
}

// ProveByCheckArea checks whether key is the volume's. It returns nil if that is proved.
// The error is of code key-wrong if it is another key, and of code io-failed if the
// device cannot be read.
func (k Kernel) ProveByCheckArea(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, key source.Key) error {
	raw := make([]byte, h.Check.Size)
	if _, err := c.Header.ReadAt(raw, h.Check.Offset); err != nil {
		return fault.New(fault.IOFailed, fmt.Sprintf("read the check area of %s", c.Header.Path()), err)
	}
	block, err := k.ReadCheck(ctx, s, h, c, key)
	switch {
	case IsDecryptError(err):
		// The ciphertext was read a moment ago, so the key is at fault.
		return NotDecrypted(h, err)
	case err != nil:
		return fmt.Errorf("check the key: %w", err)
	case !h.Check.Fits(block, h.Binding()):
		return fault.Newf(fault.KeyWrong, "the key opened, but the check says that it is not this volume's key, or that the header was changed")
	}
	return nil
}

// NotDecrypted returns the error for a key that the hardware does not accept: a protected
// key, for which the hardware is asked only now, or a CCM black key of another power
// cycle.
func NotDecrypted(h *header.Header, err error) error {
	if h.Token.Protected() {
		return fault.New(fault.BlobRejected, "the CAAM does not open the protected key: made by another chip or in another security state, or damaged", err)
	}
	return fault.New(fault.KeyWrong, "the hardware does not decrypt with this key", err)
}

// ReadCheck reads the block of the check with a key. The block of a derived check is in a
// file, to which a device is attached for the moment, and must be zeros.
func (k Kernel) ReadCheck(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, key source.Key) (block []byte, err error) {
	on := c.Header
	if h.Check.Derived {
		raw := make([]byte, h.Check.Size)
		if _, err := c.Header.ReadAt(raw, h.Check.Offset); err != nil {
			return nil, fault.New(fault.IOFailed, fmt.Sprintf("read the check area of %s", c.Header.Path()), err)
		}
		if !blank.Zero(raw) {
			return nil, fault.Newf(fault.KeyWrong, "the check of the key does not count: its area in %s is not empty, so the header was changed", c.Header.Path())
		}
		if k.Attach == nil {
			return nil, fault.Newf(fault.DeviceUnsuitable, "there are no loop devices here to map a part of %s with", s.Header)
		}
		path, closer, attachErr := k.Attach(s.Header)
		if attachErr != nil {
			return nil, attachErr
		}
		defer func() { err = errors.Join(err, closer.Close()) }()
		if on, err = k.Devices.Open(path, blockdev.Flags{}); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, on.Close()) }()
	}
	return k.ReadThrough(ctx, s, h, key, CheckArea(h, on), h.Check.Size)
}

// DeriveCheck gives a key of a volume with a detached header its derived check.
func (k Kernel) DeriveCheck(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, key source.Key) error {
	h.Check = header.Check{Offset: header.CheckOffset(h.Token.Generation), Size: header.CheckAreaSize, Derived: true}
	block, err := k.ReadCheck(ctx, s, h, c, key)
	if err != nil {
		return fmt.Errorf("derive the check: %w", err)
	}
	h.Check.Digest = header.Derive(block, h.Binding())
	return nil
}

// IsDecryptError reports whether a read error through a mapping means that its cipher
// failed: EILSEQ with O_DIRECT, EIO from the page cache.
func IsDecryptError(err error) bool {
	return errors.Is(err, unix.EILSEQ) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EBADMSG)
}

// ProveByFilesystem is the fast path: it reports whether a mapping shows the filesystem
// that was made on it. If proved is false without an error, the filesystem was not seen
// and the check must decide.
//
// If there is a check, only a UUID that was given to mkfs from this volume's own identity
// is proof. The one recorded in the header is not: an attacker who puts another volume of
// this chip in place of this one can write a header that fits it, but not the superblock.
// Without a check the recorded UUID counts if the configuration allows that.
func ProveByFilesystem(s spec.Volume, h *header.Header, a *Private) (proved bool, err error) {
	want := h.Token.Filesystem.Type
	if want == "" {
		return false, nil
	}
	h.Seen = nil
	err = WithDevice(a, false, func(d header.Device) (err error) {
		h.Seen, err = fsprobe.ReadType(d, d.Size(), want)
		return err
	})
	if err != nil {
		return false, err
	}
	return h.OwnFilesystemSeen() || !h.Check.Exists() && h.FilesystemSeen() && s.AllowUnboundHeader, nil
}

// Beyond returns the size of the volume's filesystem in bytes if it is larger than its
// mapping, as with a header from before a resize; otherwise 0. It notes what it sees in
// h, as ProveByFilesystem does.
func Beyond(h *header.Header, a *Private) (size int64, err error) {
	err = WithDevice(a, false, func(d header.Device) error {
		// Read as if the device had the space; a filesystem that is not seen even then is
		// damaged.
		sb, err := fsprobe.ReadType(d, math.MaxInt64, h.Token.Filesystem.Type)
		if err == nil && sb.Verified && sb.Size > d.Size() {
			h.Seen, size = sb, sb.Size
		}
		return nil
	})
	return size, err
}

// Probe looks for any filesystem through a mapping.
func Probe(a *Private) (sb *fsprobe.Superblock, err error) {
	err = WithDevice(a, false, func(d header.Device) error {
		sb, err = fsprobe.Read(d, d.Size())
		return err
	})
	return sb, err
}
