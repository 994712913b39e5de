// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"

	"imxcrypt/dmcrypt"
	"imxcrypt/reencrypt"
)

// hold makes the zone's requests wait: they are led to the hot mapping, which
// is suspended. From the top down: the overlay is suspended first, which waits
// for what is in flight below it; then nothing can be in the hot mapping.
func (k *stack) hold(ctx context.Context, position int64, z reencrypt.Zone) (err error) {
	if k.hot.IsZero() {
		if k.hot, err = k.activatePlain(ctx, hotSuffix, k.whole(k.new)); err != nil {
			return err
		}
	}
	overlay, hot := k.name(overlaySuffix), k.name(hotSuffix)
	if err := k.sys.Mapper.Load(ctx, overlay, k.pieces(k.layout.Pieces(position, z)), false); err != nil {
		return err
	}
	if err := k.sys.Mapper.Suspend(ctx, overlay, quietly); err != nil {
		return errors.Join(err, k.sys.Mapper.Clear(overlay), k.sys.Mapper.Resume(overlay, dmcrypt.Private, quietly))
	}
	if err := k.sys.Mapper.Suspend(ctx, hot, quietly); err != nil {
		// Back to the table before, whose zone was released.
		return errors.Join(err, k.sys.Mapper.Clear(overlay), k.sys.Mapper.Resume(hot, dmcrypt.Private, quietly),
			k.sys.Mapper.Resume(overlay, dmcrypt.Private, quietly))
	}
	if err := k.sys.Mapper.Resume(overlay, dmcrypt.Private, quietly); err != nil {
		return errors.Join(err, k.sys.Mapper.Resume(hot, dmcrypt.Private, quietly))
	}
	return nil
}

// release lets the zone's requests go on, to the given side. The overlay keeps
// the piece over the hot mapping until the next zone is held. After one that
// goes to the old side no zone is held before rest has put the hot mapping away.
func (k *stack) release(ctx context.Context, side reencrypt.View) error {
	hot := k.name(hotSuffix)
	if side == reencrypt.Old {
		if err := k.sys.Mapper.Load(ctx, hot, k.whole(k.old), false); err != nil {
			return err
		}
	}
	return k.sys.Mapper.Resume(hot, dmcrypt.Private, quietly)
}

// rest makes the overlay show what the record says without the hot mapping,
// which must not be suspended, and puts that away.
func (k *stack) rest(ctx context.Context, r reencrypt.Record) error {
	ctx = context.WithoutCancel(ctx)
	if err := k.show(ctx, k.layout.Pieces(r.Position, reencrypt.Zone{})); err != nil {
		return err
	}
	hot, err := k.look(hotSuffix)
	if err == nil && !hot.Number.IsZero() {
		err = k.sys.Mapper.Remove(ctx, k.name(hotSuffix))
	}
	if err == nil {
		k.hot = dmcrypt.Number{}
	}
	return err
}
