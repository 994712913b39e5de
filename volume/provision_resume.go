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
)

// A detached header knows its device only by what was written there with its
// key: provisioning that was interrupted may be told to go on on another device,
// which it would format. So the device is empty, or shows through the key
// something that this volume wrote.

// untouched enforces that nobody else took the device since provisioning was
// interrupted, and that it is that device.
func (p *provisioning) untouched(ctx context.Context, h *header) error {
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	return errors.Join(p.untouchedDevice(ctx, h, c), c.close())
}

func (p *provisioning) untouchedDevice(ctx context.Context, h *header, c *container) error {
	if _, err := p.usedByUs(h, c.data); err != nil || !p.s.Detached() {
		return err
	}
	if erased, err := p.erasedBefore(p.s, c.data); erased || err != nil {
		return err
	}
	e, err := blockdev.Sample(c.data, c.data.Size())
	if err != nil {
		return fault.New(fault.IOFailed, "read "+c.data.Path(), err)
	}
	if e.Empty {
		return nil
	}
	if !p.o.Wipe {
		if err := plaintext(c.data); err != nil {
			return err
		}
	}
	ours, err := p.writtenByUs(ctx, h, c, e.Offset)
	switch {
	case err != nil || ours:
		return err
	case p.o.Wipe:
		p.wipeAgain = true
		return p.notOurs(c.data)
	}
	return refuse(fault.NotEmpty, "%s is not empty (data at byte %d), and nothing on it was written with the key in %s: it is not the device that provisioning was interrupted on, or it was used since",
		c.data.Path(), e.Offset, p.s.Header)
}

// neverUsed enforces that nobody used the filesystem of a volume whose header
// says that it is being provisioned: somebody changed that header, or brought an
// old copy of it back. Only an ext4 filesystem tells, and only through a key that
// opens; then there is data, which making a filesystem anew would destroy.
func (p *provisioning) neverUsed(ctx context.Context, h *header) error {
	if p.s.Filesystem.Type == FilesystemNone {
		return nil
	}
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.close()
	key, err := p.src.open(ctx, h.keyRequest(), h.token.Blob)
	if err != nil {
		return nil // what follows says it better, or makes another key
	}
	defer key.wipe()
	var sb *fsprobe.Superblock
	err = p.lookThrough(ctx, h, c, key, func(view Device) error {
		if there, err := fsprobe.ReadType(view, view.Size(), p.s.Filesystem.Type); err == nil {
			sb = there
		}
		return nil // to see none is as it should be
	})
	if err != nil {
		return err
	}
	if sb != nil && sb.Mounted && sb.Verified && sb.UUID == h.filesystemUUID(p.s.Filesystem.Type) {
		return refuse(fault.HeaderRolledBack, "the header of uuid %q says that provisioning was interrupted, but the filesystem in the volume has been mounted: the header was changed, or an old copy of it brought back", h.luks.UUID)
	}
	return nil
}

// lookThrough uses a volume's data through a key, read-only and under a private
// name.
func (p *provisioning) lookThrough(ctx context.Context, h *header, c *container, key liveKey, use func(view Device) error) error {
	name := p.s.Mapping + checkSuffix
	a, err := p.activate(ctx, name, dmcrypt.HelperUUID(h.luks.UUID, name), h.description(), key, true, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return h.dataTable(p.s, c.data.Number(), ref)
	})
	if err != nil {
		return err
	}
	return errors.Join(withDevice(a, false, use), a.remove(ctx))
}

// writtenByUs looks through the volume's key at the first MiB of the data and at
// the block with the byte other, for what this volume wrote.
func (p *provisioning) writtenByUs(ctx context.Context, h *header, c *container, other int64) (ours bool, err error) {
	key, err := p.src.open(ctx, h.keyRequest(), h.token.Blob)
	if err != nil {
		return false, p.explainRejection(p.s, h, err)
	}
	defer key.wipe()
	err = p.lookThrough(ctx, h, c, key, func(view Device) error {
		for _, from := range []int64{0, (other - h.segment.Offset) / mib * mib} {
			if from < 0 || from >= h.segment.Size || ours {
				continue
			}
			ours, err = h.shown(view, c.data, from, min(mib, h.segment.Size-from))
			if err != nil {
				return err
			}
		}
		return nil
	})
	return ours, err
}

// shown tells whether a sector of a range was written with the volume's key: it
// is one of the check's, or not as random as what a wrong key shows.
func (h *header) shown(view, raw io.ReaderAt, from, length int64) (bool, error) {
	cipher, plain := make([]byte, length), make([]byte, length)
	if _, err := raw.ReadAt(cipher, h.segment.Offset+from); err != nil {
		return false, fault.New(fault.IOFailed, "read the device", err)
	}
	if _, err := view.ReadAt(plain, from); isDecryptError(err) {
		// The ciphertext was read a moment ago.
		return false, fault.New(fault.KeyWrong, "the hardware does not decrypt with this key", err)
	} else if err != nil {
		return false, err
	}
	mark := h.binding().hash()
	for at := int64(0); at+sectorBytes <= length; at += sectorBytes {
		sector := plain[at : at+sectorBytes]
		if bytes.HasSuffix(sector, mark[:]) || !periodic(cipher[at:at+sectorBytes]) && orderly(sector) {
			return true, nil
		}
	}
	return false, nil
}

// orderly tells whether one byte value makes up more of a sector than it ever
// does of noise: 192 of 512, where 2 are to be expected. Every structure that
// mkfs writes is mostly zeros.
func orderly(sector []byte) bool {
	var count [256]int
	for _, b := range sector {
		if count[b]++; count[b] >= 192 {
			return true
		}
	}
	return false
}

// periodic tells whether a sector repeats the same cipher block: what that
// decrypts to repeats too, and is no proof of any key.
func periodic(sector []byte) bool {
	const block = 16
	return bytes.Equal(sector[block:], sector[:len(sector)-block])
}

// newDataCheck makes the plaintext of the check that stands, until mkfs runs, in
// the data of a volume with a detached header. Each of its sectors tells
// whose it is, since a write that is cut off leaves some of them.
func newDataCheck(random io.Reader, b binding) ([]byte, error) {
	block, err := newCheckBlock(random, b)
	if err != nil {
		return nil, err
	}
	mark := b.hash()
	for end := sectorBytes; end <= len(block); end += sectorBytes {
		copy(block[end-sha256.Size:end], mark[:])
	}
	return block, nil
}

// vacant enforces, in the very open that the first header is written by, what
// the survey found: that no header is there, and nothing else unless it may be
// overwritten.
func (p *provisioning) vacant(dev Device) error {
	if !p.o.Wipe {
		if err := p.empty(dev); err != nil {
			return err
		}
	}
	return p.notOurs(dev)
}

// own reads the header again and enforces that it is the one this run works on.
func (p *provisioning) own(c *container) (*header, error) {
	h, err := readHeader(c)
	switch {
	case fault.Is(err, fault.NotProvisioned), fault.Is(err, fault.ProvisioningStarted):
		return nil, fault.New(fault.IOFailed, fmt.Sprintf("the header is not on %s any more: the storage does not keep what is written, or somebody else writes to it", c.header.Path()), err)
	case err != nil:
		return nil, fmt.Errorf("read the header back: %w", err)
	}
	switch {
	case h.luks.UUID != p.uuid:
		err = refuse(fault.HeaderMismatch, "%s holds the header of uuid %q where %q was written: someone else works on it", c.header.Path(), h.luks.UUID, p.uuid)
	case h.token.Phase != PhaseProvisioning:
		err = refuse(fault.HeaderMismatch, "phase %q where %q was expected: someone else works on %s", h.token.Phase, PhaseProvisioning, p.path)
	default:
		err = h.matches(p.s)
	}
	return h, err
}
