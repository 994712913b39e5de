// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
)

// A detached header recognises its device only by what was written there with its key.
// Interrupted provisioning may be asked to continue on another device, which it would
// format. So the device must be empty, or show through the key something that this volume
// wrote.

// resumable enforces, before anything is changed, that an interrupted run can be
// continued, and finds out whether its key can be kept.
func (p *provisioning) resumable(ctx context.Context, h *header.Header) error {
	if err := h.CheckFirstKey(); err != nil {
		return err
	}
	if h.Token.Recovery.Made() && !p.copies().any() {
		return fault.Newf(fault.Usage, "the interrupted provisioning was with a recovery copy for %s: give the same --recipient or --recovery-passphrase again, or erase the volume and begin again", h.Token.Recovery)
	}
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	if err = p.sized(c.Data); err == nil {
		p.proved, err = p.provedBefore(ctx, h, c)
	}
	if err == nil {
		err = p.untouchedDevice(ctx, h, c)
	}
	if err = errors.Join(err, c.Close()); err != nil {
		return err
	}
	return p.requireNeverUsed(ctx, h)
}

// untouchedDevice enforces that no one else has taken the device since provisioning was
// interrupted, and that it is the same device.
func (p *provisioning) untouchedDevice(ctx context.Context, h *header.Header, c *header.Storage) error {
	if _, err := p.kernel.UsedByUs(p.s, h, c.Data); err != nil || !p.s.Detached() {
		return err
	}
	if erased, err := p.erasedBefore(p.s, c.Data); erased || err != nil {
		return err
	}
	e, err := blockdev.Sample(c.Data, c.Data.Size())
	if err != nil {
		return fault.New(fault.IOFailed, "read "+c.Data.Path(), err)
	}
	if e.Empty {
		return nil
	}
	if !p.o.Wipe {
		if err := header.Plaintext(c.Data); err != nil {
			return err
		}
	}
	// Only with a proved key: what another volume wrote is just as orderly.
	ours := false
	if p.proved {
		ours, err = p.writtenByUs(ctx, h, c, e.Offset)
	}
	p.replaces = ours
	switch {
	case err != nil || ours:
		return err
	case p.o.Wipe:
		p.wipeAgain = true
		return p.notOurs(c.Data)
	}
	return fault.Newf(fault.NotEmpty, "%s is not empty (data at byte %d), and nothing on it was written with the key in %s: it is not the device that provisioning was interrupted on, or it was used since",
		c.Data.Path(), e.Offset, p.s.Header)
}

// claimAgain claims the device for a run that continues an interrupted one.
func (p *provisioning) claimAgain(ctx context.Context, h *header.Header) error {
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := headerWritable(h, c); err != nil {
		return err
	}
	return p.kernel.Claim(ctx, p.s, h, c.Data, true)
}

// requireUnclaimed enforces that no one else uses a ready volume.
func (p *provisioning) requireUnclaimed(ctx context.Context, h *header.Header) error {
	_, err := p.sys.Mapper.Info(p.s.Mapping)
	if err == nil || p.o.DryRun {
		return p.kernel.Unshared(p.s, h, p.path)
	}
	if !errors.Is(err, dmcrypt.ErrNotFound) {
		return err
	}
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	return errors.Join(p.kernel.Claim(ctx, p.s, h, c.Data, false), c.Close())
}

// requireNeverUsed enforces that the filesystem of a volume whose header says that it is
// being provisioned was never used. If it was, the header was changed or an old copy of
// it was restored, and making a filesystem again would destroy data. Only an ext4
// filesystem shows this, and only through a key that opens.
func (p *provisioning) requireNeverUsed(ctx context.Context, h *header.Header) error {
	if !p.s.Filesystem.Made() {
		return nil
	}
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.Close()
	key, err := p.openFrom(ctx, p.src, p.s, h)
	if err != nil {
		return nil // a later step reports it better, or makes another key
	}
	defer key.Wipe()
	var sb *fsprobe.Superblock
	err = p.lookThrough(ctx, h, c, key, func(view header.Device) error {
		if there, err := fsprobe.ReadType(view, view.Size(), p.s.Filesystem.Type); err == nil {
			sb = there
		}
		return nil // seeing none is the expected case
	})
	if err != nil {
		return err
	}
	if sb == nil || !sb.Verified {
		return nil
	}
	made := sb.UUID == h.FilesystemUUID(p.s.Filesystem.Type)
	if !p.s.Filesystem.ProvesKey() && !made {
		return fault.Newf(fault.HeaderRolledBack, "the header of uuid %q says that provisioning was interrupted, but the volume holds another filesystem than provisioning made: the header was changed, or an old copy of it was restored", h.LUKS.UUID)
	}
	if sb.Mounted && made {
		return fault.Newf(fault.HeaderRolledBack, "the header of uuid %q says that provisioning was interrupted, but the filesystem in the volume has been mounted: the header was changed, or an old copy of it was restored", h.LUKS.UUID)
	}
	return nil
}

// lookThrough calls use with a read-only private view of the data under a key.
func (p *provisioning) lookThrough(ctx context.Context, h *header.Header, c *header.Storage, key source.Key, use func(view header.Device) error) error {
	return p.kernel.WithData(ctx, p.s, h, c.Data.Number(), key, func(a *mapping.Private) error {
		return mapping.WithDevice(a, false, use)
	})
}

// writtenByUs looks, through the volume's key, for something that this volume wrote: in
// the first MiB of the data and in the MiB that contains the device's byte other.
func (p *provisioning) writtenByUs(ctx context.Context, h *header.Header, c *header.Storage, other int64) (ours bool, err error) {
	key, err := p.openFrom(ctx, p.src, p.s, h)
	if err != nil {
		return false, err
	}
	defer key.Wipe()
	err = p.lookThrough(ctx, h, c, key, func(view header.Device) error {
		for _, from := range []int64{0, (other - h.Segment.Offset) / header.MiB * header.MiB} {
			if from < 0 || from >= h.Segment.Size || ours {
				continue
			}
			ours, err = shown(h, view, c.Data, from, min(header.MiB, h.Segment.Size-from))
			if err != nil {
				return err
			}
		}
		return nil
	})
	return ours, err
}

// shown reports whether a sector of a range was written with the volume's key: it belongs
// to the check, or it is less random than what a wrong key shows.
func shown(h *header.Header, view, raw io.ReaderAt, from, length int64) (bool, error) {
	cipher, plain := make([]byte, length), make([]byte, length)
	if _, err := raw.ReadAt(cipher, h.Segment.Offset+from); err != nil {
		return false, fault.New(fault.IOFailed, "read the device", err)
	}
	if _, err := view.ReadAt(plain, from); mapping.IsDecryptError(err) {
		// The device is not at fault: it gave the ciphertext a moment ago.
		return false, fault.New(fault.KeyWrong, "the hardware does not decrypt with this key", err)
	} else if err != nil {
		return false, err
	}
	mark := h.Binding().Hash()
	for at := int64(0); at+header.SectorBytes <= length; at += header.SectorBytes {
		sector := plain[at : at+header.SectorBytes]
		if bytes.HasSuffix(sector, mark[:]) || !periodic(cipher[at:at+header.SectorBytes]) && orderly(sector) {
			return true, nil
		}
	}
	return false, nil
}

// orderly reports whether one byte value fills more of a sector than it ever does in
// noise: 192 of 512 bytes, where 2 are expected. Every structure that mkfs writes is
// mostly zeros.
func orderly(sector []byte) bool {
	var count [256]int
	for _, b := range sector {
		if count[b]++; count[b] >= 192 {
			return true
		}
	}
	return false
}

// periodic reports whether a sector is one repeated cipher block. Its decryption repeats,
// too, and proves no key.
func periodic(sector []byte) bool {
	const block = 16
	return bytes.Equal(sector[block:], sector[:len(sector)-block])
}

// newDataCheck makes the plaintext of the check that is, until mkfs runs, in the data of
// a volume with a detached header. Each of its sectors names the volume, since a write
// that is cut off leaves only some of them.
func newDataCheck(random io.Reader, b header.Binding) ([]byte, error) {
	block, err := header.NewCheckBlock(random, b)
	if err != nil {
		return nil, err
	}
	mark := b.Hash()
	for end := header.SectorBytes; end <= len(block); end += header.SectorBytes {
		copy(block[end-sha256.Size:end], mark[:])
	}
	return block, nil
}

// requireVacant enforces what the survey found, on the same open device that the first
// header is written to: that no header is there, and nothing else unless it may be
// overwritten.
func (p *provisioning) requireVacant(dev header.Device) error {
	if !p.o.Wipe {
		if err := p.requireEmpty(dev); err != nil {
			return err
		}
	}
	return p.notOurs(dev)
}

// rereadOwn reads the header again and enforces that it is the one that this run works on.
func (p *provisioning) rereadOwn(c *header.Storage) (*header.Header, error) {
	h, err := header.Read(c)
	switch {
	case fault.Is(err, fault.NotProvisioned), fault.Is(err, fault.ProvisioningStarted):
		return nil, fault.New(fault.IOFailed, fmt.Sprintf("the header is no longer on %s: the storage does not keep what is written, or another program writes to it", c.Header.Path()), err)
	case err != nil:
		return nil, fmt.Errorf("read the header back: %w", err)
	}
	switch {
	case h.LUKS.UUID != p.uuid:
		err = fault.Newf(fault.HeaderMismatch, "%s holds the header of uuid %q where %q was written: someone else works on it", c.Header.Path(), h.LUKS.UUID, p.uuid)
	case h.Token.Phase != header.PhaseProvisioning:
		err = fault.Newf(fault.HeaderMismatch, "phase %q where %q was expected: someone else works on %s", h.Token.Phase, header.PhaseProvisioning, p.path)
	default:
		err = h.Matches(p.s)
	}
	return h, err
}
