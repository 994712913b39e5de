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
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
)

// forgetRed wipes the plain key.
func (p *provisioning) forgetRed() {
	p.red.Wipe()
	p.red = nil
}

// copies returns the recovery copies that were asked for.
func (p *provisioning) copies() copies { return copies{p.o.Recipients, p.o.Passphrase} }

// requireRecovery refuses a ready volume without the recovery copies that were asked for:
// its key is in the chip and can no longer be had.
func (p *provisioning) requireRecovery(h *header.Header) error {
	for _, recipient := range p.o.Recipients {
		if !slices.Contains(h.Token.Recovery.Recipients, recipient) {
			return fault.Newf(fault.RecoveryMissing, "the volume is provisioned already, without a recovery copy for %s", recipient)
		}
	}
	if p.o.Passphrase != nil && !h.Token.Recovery.ByPassphrase() {
		return fault.Newf(fault.RecoveryMissing, "the volume is provisioned already, without a recovery copy for a passphrase")
	}
	return nil
}

// proveRecovery reads the check, which the black key wrote, with the plain key and the
// plain cipher. That proves that the key sealed in the header is the one that the chip
// uses.
func (p *provisioning) proveRecovery(ctx context.Context, black source.Key) error {
	if p.red == nil {
		return nil
	}
	defer p.forgetRed()
	c, h, err := p.openHeader(p.s, p.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.Close()
	at := mapping.Area{Device: c.Data.Number(), Offset: h.Segment.Offset, Size: header.CheckAreaSize}
	if h.Check.InHeader() {
		at = mapping.CheckArea(h, c.Header)
	}
	want, err := p.kernel.ReadThrough(ctx, p.s, h, black, at, header.CheckAreaSize)
	if err != nil {
		return err
	}
	got, err := p.kernel.ReadThrough(ctx, p.s, h.WithRedKey(), source.NewLogonKey(p.red, p.sys.Keyring), at, header.CheckAreaSize)
	if err != nil {
		return fmt.Errorf("try the recovery copy: %w", err)
	}
	if !bytes.Equal(want, got) {
		return changedKey()
	}
	p.j.did("recovery copy proved")
	p.j.warnOfRecovery(h.Token.Recovery)
	p.j.warn("note the fingerprint of the recovery copy, a reseal asks for it: " + h.Fingerprint())
	return nil
}

// proveCopy proves the recovery copy of a rotation's new key before its header is
// written: it writes a block with the plain key and reads it with the black one. It uses
// the place of the new check, which holds nothing yet.
func (x *rotating) proveCopy(ctx context.Context, next *header.Header, black source.Key, red *secret.Buffer) error {
	if red == nil {
		return nil
	}
	want, err := header.NewCheckBlock(x.sys.Rand, next.Binding())
	if err != nil {
		return err
	}
	if next.Check.Derived {
		return x.proveDetachedCopy(ctx, next, black, red)
	}
	at := mapping.CheckArea(next, x.c.Header)
	if err := x.kernel.WriteThrough(ctx, x.s, next.WithRedKey(), source.NewLogonKey(red, x.sys.Keyring), at, want); err != nil {
		return fmt.Errorf("try the recovery copy: %w", err)
	}
	got, err := x.kernel.ReadThrough(ctx, x.s, next, black, at, header.CheckAreaSize)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, got) {
		return changedKey()
	}
	x.j.did("recovery copy proved")
	return nil
}

// proveDetachedCopy is proveCopy for a detached header, whose check is what a key makes
// of zeros: both keys must make the same of them.
func (x *rotating) proveDetachedCopy(ctx context.Context, next *header.Header, black source.Key, red *secret.Buffer) error {
	want, err := x.kernel.ReadCheck(ctx, x.s, next.WithRedKey(), x.c, source.NewLogonKey(red, x.sys.Keyring))
	if err != nil {
		return fmt.Errorf("try the recovery copy: %w", err)
	}
	got, err := x.kernel.ReadCheck(ctx, x.s, next, x.c, black)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, got) {
		return changedKey()
	}
	x.j.did("recovery copy proved")
	return nil
}

// warnOfRecovery warns who can read the volume without its board.
func (j *runLog) warnOfRecovery(r header.Recovery) {
	if len(r.Recipients) > 0 {
		j.warn("RECOVERY COPY: the identity of " + strings.Join(r.Recipients, ", ") + " opens this volume without the board")
	}
	if r.ByPassphrase() {
		j.warn("RECOVERY COPY: the recovery passphrase opens this volume without the board")
	}
}

func changedKey() error {
	return fault.New(fault.CAAMFailed, "the chip does not use the key that it was given", errors.New("a recovery copy of it would open nothing"))
}
