// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"crypto/sha256"
	"fmt"

	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
)

// start makes the new key and the header with both keys, and proves the new one.
func (x *rotating) start(ctx context.Context) error {
	x.trusted = x.suspendGuard()
	p, err := x.plan(ctx)
	if err != nil {
		return err
	}
	request := requestAfter(x.h, x.s)
	key, blob, copied, red, err := x.newKey(ctx, p.source, request, p.copies)
	if err != nil {
		return err
	}
	defer key.Wipe()
	defer red.Wipe()
	x.j.did("key created")
	next := x.h.BeginRotation(header.Token{
		Source: x.s.Source, Generation: request.Generation, Blob: blob, Wrap: request.Wrap, KeySize: x.s.KeySize,
		State: p.state, Created: x.sys.Now(), Recovery: copied,
	}, x.s.Cipher, p.layout)
	if err := x.proveCopy(ctx, next, key, red); err != nil {
		return err
	}
	if err := x.putKey(ctx, next, key, p.layout); err != nil {
		return err
	}
	x.j.did("new key proved")
	return nil
}

// putKey writes the first records, the check of the new key and the header with that key.
// Then it reads all of it back from storage and proves it.
func (x *rotating) putKey(ctx context.Context, next *header.Header, key source.Key, l reencrypt.Layout) error {
	block, err := header.NewCheckBlock(x.sys.Rand, next.Binding())
	if err != nil {
		return err
	}
	next.Check.Digest = sha256.Sum256(block)
	if next.Check.Derived {
		if err := x.kernel.DeriveCheck(ctx, x.s, next, x.c, key); err != nil {
			return err
		}
	}
	// A check derived with a dead key would refuse the right one from now on.
	if err := x.trusted(); err != nil {
		return err
	}
	if !x.h.Copies.Intact() {
		// The first records replace those of the previous rotation, to which an older
		// copy of the header may refer.
		if err := x.h.RepairOn(x.c); err != nil {
			return fmt.Errorf("write both copies of the header: %w", err)
		}
	}
	if err := x.firstRecords(ctx, next, l); err != nil {
		return err
	}
	// The check comes before the header: a key in the header has then been proved, with
	// the recovery copies that this run was asked for.
	if next.Check.InHeader() {
		if err := x.kernel.WriteThrough(ctx, x.s, next, key, mapping.CheckArea(next, x.c.Header), block); err != nil {
			return fmt.Errorf("write the check: %w", err)
		}
	}
	if err := x.h.Write(x.c.Header); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	h, err := header.Read(x.c)
	if err != nil {
		return fmt.Errorf("read the header back: %w", err)
	}
	if h.Next == nil {
		return fault.Newf(fault.HeaderInvalid, "the header that was read back has no new key")
	}
	if err := x.proveOpens(ctx, x.s, h.Next, x.c); err != nil {
		return err
	}
	x.h = h
	return nil
}

// firstRecords writes the records before the header says that they exist. That moves no
// data, so the mappings are not needed yet.
func (x *rotating) firstRecords(ctx context.Context, next *header.Header, l reencrypt.Layout) error {
	b, err := x.h.RotationBinding(next.Token.Generation)
	if err != nil {
		return err
	}
	e, err := reencrypt.NewEngine(reencrypt.Options{
		Layout: l, Binding: b, Lanes: 1, Unit: header.BlockAlign,
		Views: reencrypt.Views{Old: x.c.Data, New: x.c.Data, Raw: x.c.Data, Meta: x.c.Header},
	})
	if err != nil {
		return err
	}
	return e.Begin(ctx)
}

// drop gives up a new key that does not open or was never proved, while no data is under
// it, and starts again with another. dropped is false if data is under it, or cause is
// something else.
func (x *rotating) drop(ctx context.Context, r reencrypt.Record, cause error) (dropped bool, err error) {
	if !r.Untouched() || ctx.Err() != nil {
		return false, nil
	}
	if x.h.Moved > 0 && fault.Is(cause, fault.KeyWrong) {
		return false, nil // it was proved before the header was written: someone changed that
	}
	switch fault.CodeOf(cause) {
	case fault.EncryptionStarted, fault.KeyWrong, fault.BlobRejected, fault.BlobDamaged, fault.BlobOpenState, fault.KeyFileDamaged:
	default:
		return false, nil
	}
	k, err := x.kernel.NewStack(x.s, x.h, x.c)
	if err != nil {
		return false, err
	}
	if n, err := k.Look(mapping.NewSuffix); err != nil || !n.Number.IsZero() {
		return false, err
	}
	if x.h.Encrypting() {
		if x.live {
			return false, nil
		}
		if err := x.firstKeyAgain(ctx); err != nil {
			return false, err
		}
		return true, x.moveRest(ctx)
	}
	// On another board neither key opens, and nothing is given up.
	if x.proveOpens(ctx, x.s, x.h, x.c) != nil {
		return false, nil
	}
	if err := x.sameCopies(x.h.Next.Token.Recovery); err != nil {
		return false, err
	}
	x.sys.Log.Warn("the new key of an interrupted rotation was never proved; another one is made", "volume", x.s.Name)
	x.h.Next = nil
	if err := x.h.Write(x.c.Header); err != nil {
		return false, fmt.Errorf("write the header: %w", err)
	}
	if err := x.start(ctx); err != nil {
		return false, err
	}
	return true, x.moveRest(ctx)
}
