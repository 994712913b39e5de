// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
)

// checkArea is where the header's check lies on the header's device.
func (h *header) checkArea(headerDevice blockdev.Number) area {
	return area{device: headerDevice, offset: h.check.Offset, size: h.check.Size, ivOffset: checkIVOffset}
}

// readThrough reads the first n bytes of an area through a read-only private
// mapping with the key.
func (m *Manager) readThrough(ctx context.Context, s Spec, h *header, key liveKey, at area, n int64) ([]byte, error) {
	a, err := m.activateArea(ctx, s, h, key, at, true)
	if err != nil {
		return nil, err
	}
	block := make([]byte, n)
	err = withDevice(a, false, func(d Device) error {
		_, err := d.ReadAt(block, 0)
		return err
	})
	if err = errors.Join(err, a.remove(ctx)); err != nil {
		return nil, err
	}
	return block, nil
}

// writeThrough writes a block to an area through a private mapping with the
// key, durably.
func (m *Manager) writeThrough(ctx context.Context, s Spec, h *header, key liveKey, at area, block []byte) error {
	a, err := m.activateArea(ctx, s, h, key, at, false)
	if err != nil {
		return err
	}
	err = withDevice(a, true, func(d Device) error {
		if _, err := d.WriteAt(block, 0); err != nil {
			return err
		}
		return d.Flush()
	})
	return errors.Join(err, a.remove(ctx))
}

func (m *Manager) activateArea(ctx context.Context, s Spec, h *header, key liveKey, at area, readOnly bool) (*mapped, error) {
	name := s.Mapping + checkSuffix
	return m.activate(ctx, name, dmcrypt.HelperUUID(h.luks.UUID, name), h.description(), key, readOnly, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return h.table(at, ref, nil)
	})
}

func withDevice(a *mapped, write bool, use func(Device) error) error {
	d, err := a.open(write)
	if err != nil {
		return err
	}
	return errors.Join(use(d), d.Close())
}

// proveByCheckArea tells whether key is the volume's. nil means proved. A key
// that is not is an error of code key-wrong; a device that cannot be read, of
// code io-failed.
func (m *Manager) proveByCheckArea(ctx context.Context, s Spec, h *header, c *container, key liveKey) error {
	raw := make([]byte, h.check.Size)
	if _, err := c.header.ReadAt(raw, h.check.Offset); err != nil {
		return fault.New(fault.IOFailed, fmt.Sprintf("read the check area of %s", c.header.Path()), err)
	}
	block, err := m.readCheck(ctx, s, h, c, key)
	switch {
	case isDecryptError(err):
		// The ciphertext was read a moment ago, so it is the key that the
		// hardware does not take (a CCM black key of another power cycle).
		return fault.New(fault.KeyWrong, "the hardware does not decrypt with this key", err)
	case err != nil:
		return fmt.Errorf("check the key: %w", err)
	case !h.check.fits(block, h.binding()):
		return refuse(fault.KeyWrong, "the key opened, but the check says that it is not this volume's key, or that the header was changed")
	}
	return nil
}

// readCheck reads the block of the check with a key. That of a derived check lies
// in a file, which gets a device for the moment.
func (m *Manager) readCheck(ctx context.Context, s Spec, h *header, c *container, key liveKey) (block []byte, err error) {
	on := c.header
	if h.check.Derived {
		if m.sys.Attach == nil {
			return nil, refuse(fault.DeviceUnsuitable, "there are no loop devices here to map a part of %s with", s.Header)
		}
		path, closer, err := m.sys.Attach(s.Header)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, closer.Close()) }()
		if on, err = m.sys.Devices.Open(path, blockdev.Flags{}); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, on.Close()) }()
	}
	return m.readThrough(ctx, s, h, key, h.checkArea(on.Number()), h.check.Size)
}

// deriveCheck gives a key of a detached header's volume its derived check.
func (m *Manager) deriveCheck(ctx context.Context, s Spec, h *header, c *container, key liveKey) error {
	h.check = Check{Offset: checkOffset(h.token.Generation), Size: checkAreaSize, Derived: true}
	block, err := m.readCheck(ctx, s, h, c, key)
	if err != nil {
		return fmt.Errorf("derive the check: %w", err)
	}
	h.check.Digest = derive(block, h.binding())
	return nil
}

// proveKey tells whether a key is the volume's, by its check or, with a detached
// header, by the filesystem. Nothing is written.
func (m *Manager) proveKey(ctx context.Context, s Spec, h *header, c *container, key liveKey) error {
	if !h.check.InHeader() && !h.check.Derived {
		return m.verifyByFilesystem(ctx, s, h, c, key)
	}
	return m.explainRejection(s, h, m.proveByCheckArea(ctx, s, h, c, key))
}

// isDecryptError tells the errors by which a read through a mapping shows that
// its cipher failed: EILSEQ with O_DIRECT, EIO from the page cache.
func isDecryptError(err error) bool {
	return errors.Is(err, unix.EILSEQ) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EBADMSG)
}

// proveByFilesystem is the fast path: does a mapping show the filesystem that
// was made on it? proved false without an error means: not seen, ask the check.
//
// Where there is a check, only a UUID that mkfs was given by this volume's own
// identity is proof. The one recorded in the header is not: whoever puts another
// volume of this chip in this one's place can write the header that fits it, but
// not the superblock. Without a check the record is all there is.
func (h *header) proveByFilesystem(a *mapped) (proved bool, err error) {
	want := h.token.Filesystem
	if want.Type == "" {
		return false, nil
	}
	var sb *fsprobe.Superblock
	err = withDevice(a, false, func(d Device) error {
		sb, err = fsprobe.ReadType(d, d.Size(), want.Type)
		return err
	})
	if err != nil {
		return false, err
	}
	h.seen = sb
	if h.check.InHeader() {
		want.UUID = h.filesystemUUID(want.Type)
	}
	return sb.Verified && sb.Type == want.Type && sb.UUID == want.UUID && want.UUID != "", nil
}

// probe looks for any filesystem through a mapping.
func probe(a *mapped) (sb *fsprobe.Superblock, err error) {
	err = withDevice(a, false, func(d Device) error {
		sb, err = fsprobe.Read(d, d.Size())
		return err
	})
	return sb, err
}
