// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"context"
	"errors"

	"imxcrypt/dmcrypt"
	"imxcrypt/reencrypt"
)

// Hold makes the zone's requests wait: they are led to a hot mapping, which is
// suspended. Both are suspended at the same time, since a suspend waits for grace periods
// of the kernel: the overlay, which waits for what is in flight below it, too, and the hot
// mapping that the zone before the last one had. Nothing can be in that one: the overlay's
// table has been another one since.
func (k *Stack) Hold(ctx context.Context, position int64, z reencrypt.Zone) (err error) {
	was := k.turn
	k.turn = 1 - was
	defer func() {
		if err != nil {
			k.turn = was
		}
	}()
	suffix := HotSuffixes()[k.turn]
	if k.Hot[k.turn].IsZero() {
		if k.Hot[k.turn], err = k.activatePlain(ctx, suffix, k.Whole(k.New)); err != nil {
			return err
		}
	}
	overlay, hot := k.Name(OverlaySuffix), k.Name(suffix)
	pieces := k.Layout.Pieces(position, z)
	err = k.Mapper.Load(ctx, overlay, k.pieces(pieces), false)
	if err != nil && !k.noDelay {
		k.noDelay = true
		err = k.Mapper.Load(ctx, overlay, k.pieces(pieces), false)
	}
	if err != nil {
		return err
	}
	suspended := make(chan error)
	go func() { suspended <- k.Mapper.Suspend(ctx, hot, Quietly) }()
	err = k.Mapper.Suspend(ctx, overlay, Quietly)
	if err = errors.Join(err, <-suspended); err != nil {
		// Back to the table before, whose zone was released.
		return errors.Join(err, k.Mapper.Clear(overlay), k.resume(hot), k.resume(overlay))
	}
	if err := k.resume(overlay); err != nil {
		return errors.Join(err, k.resume(hot))
	}
	return nil
}

// Release releases the zone's requests to the given side. The overlay keeps
// the piece over the hot mapping until the next zone is held. After one that
// goes to the old side no zone is held before rest has put the hot mappings away.
func (k *Stack) Release(ctx context.Context, side reencrypt.View) error {
	hot := k.Name(HotSuffixes()[k.turn])
	if side == reencrypt.Old {
		if err := k.Mapper.Load(ctx, hot, k.Whole(k.Old), false); err != nil {
			return err
		}
	}
	return k.resume(hot)
}

// Held reports whether a zone is held, which suspending the overlay would wait for.
func (k *Stack) Held() (bool, error) {
	for _, suffix := range HotSuffixes() {
		if hot, err := k.Look(suffix); err != nil || hot.Suspended {
			return true, err
		}
	}
	return false, nil
}

// FlushesWait reports whether the kernel turned out to have no dm-delay, so that flushes
// wait for the zone.
func (k *Stack) FlushesWait() bool { return k.noDelay }

// HotCut reports whether what a zone is led to fails every request, which Settle ends.
func (k *Stack) HotCut() (bool, error) {
	for i, suffix := range HotSuffixes() {
		if k.Hot[i].IsZero() {
			continue
		}
		if t, err := k.Mapper.Table(k.Name(suffix)); err != nil || t.IsCut() {
			return err == nil, err
		}
	}
	return false, nil
}

// Rest makes the overlay show what the record says without a hot mapping; none may be
// suspended. It puts them away.
func (k *Stack) Rest(ctx context.Context, r reencrypt.Record) error {
	ctx = context.WithoutCancel(ctx)
	if err := k.show(ctx, k.Layout.Pieces(r.Position, reencrypt.Zone{})); err != nil {
		return err
	}
	for i, suffix := range HotSuffixes() {
		hot, err := k.Look(suffix)
		if err == nil && !hot.Number.IsZero() {
			err = k.Mapper.Remove(ctx, k.Name(suffix))
		}
		if err != nil {
			return err
		}
		k.Hot[i] = dmcrypt.Number{}
	}
	return nil
}
