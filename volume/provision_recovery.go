// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
)

// forgetRed wipes the plain key.
func (p *provisioning) forgetRed() {
	p.red.Wipe()
	p.red = nil
}

// requireRecovery refuses a volume that is ready without the recovery copies
// that were asked for: its key is in the chip, and cannot be had any more.
func (p *provisioning) requireRecovery(h *header) error {
	for _, recipient := range p.o.Recipients {
		if !slices.Contains(h.token.Recovery.Recipients, recipient) {
			return refuse(fault.RecoveryMissing, "the volume is provisioned already, without a recovery copy for %s", recipient)
		}
	}
	return nil
}

// renewKey gives a volume whose provisioning was interrupted another key with a
// recovery copy. That of the interrupted run cannot be compared with its
// recovery copy any more, and nothing but an empty filesystem can have been
// encrypted with it.
//
// The recipients must be given in this run: whoever can write to the device could
// have put one of their own into the header.
func (p *provisioning) renewKey(ctx context.Context) (_ *header, key liveKey, err error) {
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Write: true, Direct: true})
	if err != nil {
		return nil, nil, err
	}
	defer c.close()
	h, err := p.own(c)
	if err != nil {
		return nil, nil, err
	}
	if len(p.o.Recipients) == 0 {
		return nil, nil, refuse(fault.Usage, "the interrupted provisioning was with a recovery copy for %s: give that --recipient again, or erase the volume and begin anew",
			strings.Join(h.token.Recovery.Recipients, ", "))
	}
	key, h.token.Blob, h.token.Recovery, p.red, err = newKey(ctx, p.src, p.sys.Rand, h.keyRequest(), p.o.Recipients)
	if err != nil {
		return nil, nil, err
	}
	h.token.State, h.token.Created = p.securityState(), p.sys.Now()
	if err := h.write(c.header); err != nil {
		key.wipe()
		return nil, nil, fmt.Errorf("write the header: %w", err)
	}
	p.j.did("key created anew, with a recovery copy")
	return h, key, nil
}

// proveRecovery reads the check, which the black key wrote, with the plain key
// and the plain cipher: what is sealed in the header is what the chip uses.
func (p *provisioning) proveRecovery(ctx context.Context, black liveKey) error {
	if p.red == nil {
		return nil
	}
	defer p.forgetRed()
	c, h, err := p.openHeader(p.s, p.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.close()
	at := area{device: c.data.Number(), offset: h.segment.Offset, size: checkAreaSize}
	if h.check.InHeader() {
		at = h.checkArea(c.header.Number())
	}
	want, err := p.readThrough(ctx, p.s, h, black, at, checkAreaSize)
	if err != nil {
		return err
	}
	got, err := p.readThrough(ctx, p.s, h.plain(), newLogonKey(p.red, p.sys.Keyring), at, checkAreaSize)
	if err != nil {
		return fmt.Errorf("try the recovery copy: %w", err)
	}
	if !bytes.Equal(want, got) {
		return changedKey()
	}
	p.j.did("recovery copy proved")
	p.j.warn("RECOVERY COPY: whoever has the identity of " + strings.Join(h.token.Recovery.Recipients, ", ") + " reads this volume without the board")
	return nil
}

// proveCopy proves the recovery copy of a rotation's new key before its header is
// written: a block that the plain key wrote is read with the black one. The new
// check's place serves, which holds nothing yet.
func (x *rotating) proveCopy(ctx context.Context, next *header, black liveKey, red *secret.Buffer) error {
	if red == nil {
		return nil
	}
	want, err := newCheckBlock(x.sys.Rand, next.binding())
	if err != nil {
		return err
	}
	at := next.checkArea(x.c.header.Number())
	if err := x.writeThrough(ctx, x.s, next.plain(), newLogonKey(red, x.sys.Keyring), at, want); err != nil {
		return fmt.Errorf("try the recovery copy: %w", err)
	}
	got, err := x.readThrough(ctx, x.s, next, black, at, checkAreaSize)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, got) {
		return changedKey()
	}
	x.j.did("recovery copy proved")
	return nil
}

func changedKey() error {
	return fault.New(fault.CAAMFailed, "the chip does not use the key that it was given", errors.New("a recovery copy of it would open nothing"))
}

// plain is the header as a machine without the hardware uses it, with the red
// key. It is never written.
func (h *header) plain() *header {
	p := *h
	p.segment.Encryption = plainCipher(h.segment.Encryption)
	return &p
}
