// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"context"
	"errors"

	"imxcrypt/dmcrypt"
	"imxcrypt/reencrypt"
)

// Hold directs the zone's requests to a suspended hot mapping. It suspends the overlay
// and that mapping at the same time, since each suspend waits for grace periods of the
// kernel. This is safe: the mapping was last used for the zone before the last one, and
// the overlay's table has changed since, so no request is in it.
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
		if k.Hot[k.turn], err = k.activatePlain(ctx, suffix, k.WholeTable(k.New)); err != nil {
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
		// Go back to the previous table, whose zone was released.
		return errors.Join(err, k.Mapper.Clear(overlay), k.resume(hot), k.resume(overlay))
	}
	if err := k.resume(overlay); err != nil {
		return errors.Join(err, k.resume(hot))
	}
	return nil
}

// Release releases the zone's requests to the given side. The overlay keeps the piece
// over the hot mapping until the next zone is held. After a release to the old side, no
// zone is held until Rest has removed the hot mappings.
func (k *Stack) Release(ctx context.Context, side reencrypt.View) error {
	hot := k.Name(HotSuffixes()[k.turn])
	if side == reencrypt.Old {
		if err := k.Mapper.Load(ctx, hot, k.WholeTable(k.Old), false); err != nil {
			return err
		}
	}
	return k.resume(hot)
}

// HotSuspended reports whether a hot mapping is suspended. Suspending the overlay would
// then wait for the requests in it.
func (k *Stack) HotSuspended() (bool, error) {
	for _, suffix := range HotSuffixes() {
		if hot, err := k.Look(suffix); err != nil || hot.Suspended {
			return true, err
		}
	}
	return false, nil
}

// LacksDelay reports whether the kernel turned out to have no dm-delay, so that flushes
// wait for the zone.
func (k *Stack) LacksDelay() bool { return k.noDelay }

// ShowRecord makes the overlay show what the record says without a hot mapping, and
// removes the hot mappings. None of them may be suspended.
func (k *Stack) ShowRecord(ctx context.Context, r reencrypt.Record) error {
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
