// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
)

// The key of an interrupted run is kept only if the check proves it. The header is not
// authenticated: anyone who can write to the storage can put the blob of another volume
// of this chip into it, and a check that was then made for that blob would turn the other
// volume's ciphertext into this one's data. Only a holder of the key can make the check,
// and only with this volume's identity in it. If there is no such check yet, nothing was
// encrypted with the stored key, so another key is made and nothing is lost. (The key of
// source dev, which protects nothing, is named after the UUID and is kept: a disk in a
// drawer may still need the file.)

// provedBefore reports whether the check proves the stored key. A blob that this chip
// does not open is an error: the header may be another board's.
func (p *provisioning) provedBefore(ctx context.Context, h *header.Header, c *header.Storage) (bool, error) {
	key, err := p.openFrom(ctx, p.src, p.s, h)
	if err != nil {
		return false, err
	}
	defer key.Wipe()
	if !h.Check.Exists() {
		return false, nil
	}
	err = p.kernel.ProveByCheckArea(ctx, p.s, h, c, key)
	if fault.Is(err, fault.KeyWrong) {
		return false, nil
	}
	return err == nil, err
}

// renews reports whether this run makes a key in place of the stored one. A stored key
// with a recovery copy can no longer be compared with that copy.
func (p *provisioning) renews(h *header.Header) bool {
	return !p.proved || p.copies().any() || h.Token.Recovery.Made()
}

// renewKey gives a volume whose provisioning was interrupted another key. At most an
// empty filesystem can have been encrypted with the stored one.
//
// The recipients of a recovery copy must be given in this run: anyone who can write to
// the device could have put one of their own into the header.
func (p *provisioning) renewKey(ctx context.Context) (_ *header.Header, key source.Key, err error) {
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Write: true, Direct: true})
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	h, err := p.rereadOwn(c)
	if err != nil {
		return nil, nil, err
	}
	if p.replaces {
		if err := p.recordReplaced(h); err != nil {
			return nil, nil, err
		}
	}
	key, h.Token.Blob, h.Token.Recovery, p.red, err = p.newKey(ctx, p.src, requestOf(h), p.copies())
	if err != nil {
		return nil, nil, err
	}
	h.Token.State, h.Token.Created = p.securityState(), p.sys.Now()
	if err := h.Write(c.Header); err != nil {
		key.Wipe()
		return nil, nil, fmt.Errorf("write the header: %w", err)
	}
	p.j.did("another key created")
	return h, key, nil
}

// recordReplaced leaves a record that the device may be overwritten: the next key shows
// nothing of what is on it, so a run after a power cut would not recognise it. The record
// is removed when the next key has written to the device.
func (p *provisioning) recordReplaced(h *header.Header) error {
	path := p.s.Header + header.EraseRecordSuffix
	return p.exclusively(func(dev header.Device) error {
		if erased, err := p.erasedBefore(p.s, dev); erased || err != nil {
			return err
		}
		sum, err := header.DataSum(dev)
		if err != nil {
			return err
		}
		// A record that does not fit the device has no meaning any more.
		if err := p.sys.Files.Remove(path); err != nil {
			return err
		}
		r := header.EraseRecord{State: header.EraseDone, Area: h.LUKS.Area(), When: p.sys.Now(), UUID: h.LUKS.UUID, Label: h.LUKS.Label, Data: sum}
		return p.sys.Files.Create(path, r.Block(), 0o600)
	})
}

// proveStored reads the header back from storage, opens its blob through the hardware and
// proves that this is the key that was created. created is nil if the check of an earlier
// run proved the key; only a new key gets a check.
func (p *provisioning) proveStored(ctx context.Context, created source.Key) (_ source.Key, err error) {
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Write: true, Direct: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	h, err := p.rereadOwn(c)
	if err != nil {
		return nil, err
	}
	// On the device the record is where the check goes. In a file it says, until the new
	// key has written to the device, why the device may be overwritten.
	if !p.s.Detached() {
		if err := p.dropEraseRecord(p.s, c); err != nil {
			return nil, err
		}
	}
	key, err := p.openFrom(ctx, p.src, p.s, h)
	if err != nil {
		return nil, err
	}
	if created != nil {
		err = p.writeCheck(ctx, h, c, created)
	}
	if err == nil {
		err = p.kernel.ProveByCheckArea(ctx, p.s, h, c, key)
	}
	if created != nil && fault.Is(err, fault.KeyWrong) {
		err = fault.New(fault.KeyWrong, "the key that the stored blob opens to is not the one that was created", err)
	}
	if err == nil && p.s.Detached() {
		err = p.markData(ctx, h, c, key)
	}
	if err == nil && p.s.Detached() {
		err = p.dropEraseRecord(p.s, c)
	}
	if err != nil {
		key.Wipe()
		return nil, err
	}
	p.j.did("stored key proved")
	return key, nil
}

// writeCheck makes the check of a newly created key.
func (p *provisioning) writeCheck(ctx context.Context, h *header.Header, c *header.Storage, created source.Key) error {
	if p.s.Detached() {
		if err := p.kernel.DeriveCheck(ctx, p.s, h, c, created); err != nil {
			return err
		}
		if err := h.Write(c.Header); err != nil {
			return fmt.Errorf("write the header: %w", err)
		}
		return nil
	}
	block, err := header.NewCheckBlock(p.sys.Rand, h.Binding())
	if err != nil {
		return err
	}
	h.Check.Digest = sha256.Sum256(block)
	if err := h.Write(c.Header); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	if err := p.kernel.WriteThrough(ctx, p.s, h, created, mapping.CheckArea(h, c.Header), block); err != nil {
		return fmt.Errorf("write the check: %w", err)
	}
	return nil
}

// markData writes the mark by which a later run recognises the device of a detached
// header. It uses the data area, which holds nothing yet.
func (p *provisioning) markData(ctx context.Context, h *header.Header, c *header.Storage, key source.Key) error {
	block, err := newDataCheck(p.sys.Rand, h.Binding())
	if err != nil {
		return err
	}
	at := mapping.Area{Device: c.Data.Number(), Offset: h.Segment.Offset, Size: header.CheckAreaSize}
	if err := p.kernel.WriteThrough(ctx, p.s, h, key, at, block); err != nil {
		return fmt.Errorf("mark the device: %w", err)
	}
	got, err := p.kernel.ReadThrough(ctx, p.s, h, key, at, header.CheckAreaSize)
	if err != nil {
		return fmt.Errorf("read the mark back: %w", err)
	}
	if !bytes.Equal(got, block) {
		return fault.Newf(fault.IOFailed, "%s does not read back as it was written", c.Data.Path())
	}
	return nil
}
