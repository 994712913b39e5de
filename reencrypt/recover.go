// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
)

// Recover finds out how far the rotation is and settles a zone that was interrupted.
// After that anyone may use the volume as [Record.Pieces] of the result says. In mode Gap
// it writes nothing except, with [Options.CachedMeta], the record again. If it is
// interrupted, it may be repeated.
//
// Its errors wrap [ErrNoRecord] or are a [*MismatchError], a [*JournalError],
// an [*IOError] or an [*UnsettledError].
func (e *Engine) Recover(ctx context.Context) (Record, error) {
	if !e.working.TryLock() {
		return Record{}, errBusy
	}
	defer e.working.Unlock()
	defer e.copier.wipe()
	err := e.boundary(ctx)
	if err == nil {
		err = e.recover(ctx)
	}
	return e.Record(), err
}

func (e *Engine) recover(ctx context.Context) error {
	e.settled = false
	// What is about to be relied on may be only in a cache, left there by a killed
	// process.
	for _, v := range []View{New, Raw, Meta} {
		if v == Raw && e.views.Raw == nil {
			continue
		}
		if err := e.flush(v); err != nil {
			return err
		}
	}
	found, err := readSlots(e.views.Meta, e.layout.RecordOffset, e.slots)
	if err != nil {
		return err
	}
	r, err := found.find(e.binding)
	if err != nil {
		return err
	}
	if err := r.fits(e.layout); err != nil {
		return err
	}
	e.setRecord(r)
	if r.Phase == Journaled {
		if err := e.undo(); err != nil {
			var damaged *JournalError
			if errors.As(err, &damaged) {
				return err
			}
			return &UnsettledError{Zone: e.layout.exactZone(r.Position, r.Zone), Err: err}
		}
	}
	if e.cachedMeta && r.Phase != Journaled { // undo has written another
		if err := e.writeRecord(r); err != nil {
			return err
		}
	}
	e.settled = true
	e.pace.resume(r.Zone)
	return e.release(ctx)
}
