// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"context"
	"errors"

	"imxcrypt/dmcrypt"
	"imxcrypt/reencrypt"
)

// Hold makes the zone's requests wait: they are led to the hot mapping, which
// is suspended. From the top down: the overlay is suspended first, which waits
// for what is in flight below it; then nothing can be in the hot mapping.
func (k *Stack) Hold(ctx context.Context, position int64, z reencrypt.Zone) (err error) {
	if k.Hot.IsZero() {
		if k.Hot, err = k.activatePlain(ctx, HotSuffix, k.Whole(k.New)); err != nil {
			return err
		}
	}
	overlay, hot := k.Name(OverlaySuffix), k.Name(HotSuffix)
	pieces := k.Layout.Pieces(position, z)
	err = k.Mapper.Load(ctx, overlay, k.pieces(pieces), false)
	if err != nil && !k.noDelay {
		k.noDelay = true
		err = k.Mapper.Load(ctx, overlay, k.pieces(pieces), false)
	}
	if err != nil {
		return err
	}
	if err := k.Mapper.Suspend(ctx, overlay, Quietly); err != nil {
		return errors.Join(err, k.Mapper.Clear(overlay), k.resume(overlay))
	}
	if err := k.Mapper.Suspend(ctx, hot, Quietly); err != nil {
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
// goes to the old side no zone is held before rest has put the hot mapping away.
func (k *Stack) Release(ctx context.Context, side reencrypt.View) error {
	hot := k.Name(HotSuffix)
	if side == reencrypt.Old {
		if err := k.Mapper.Load(ctx, hot, k.Whole(k.Old), false); err != nil {
			return err
		}
	}
	return k.resume(hot)
}

// Rest makes the overlay show what the record says without the hot mapping,
// which must not be suspended, and puts that away.
func (k *Stack) Rest(ctx context.Context, r reencrypt.Record) error {
	ctx = context.WithoutCancel(ctx)
	if err := k.show(ctx, k.Layout.Pieces(r.Position, reencrypt.Zone{})); err != nil {
		return err
	}
	hot, err := k.Look(HotSuffix)
	if err == nil && !hot.Number.IsZero() {
		err = k.Mapper.Remove(ctx, k.Name(HotSuffix))
	}
	if err == nil {
		k.Hot = dmcrypt.Number{}
	}
	return err
}
