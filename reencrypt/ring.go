// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"sync"
)

// overlapZone is how long a zone is when the journal has room for two; 0 where it
// has not. The halves share no block of storage that is larger than it says: to write
// the one would be to write a part of the other, which is somebody's only copy.
func (e *Engine) overlapZone() int64 {
	return min(e.layout.ZoneSize, roundDown(e.layout.JournalSize/2, max(e.layout.align(), bufferAlign)))
}

// overlap moves everything that is left in mode Journal, where nobody is held: while
// one zone is copied the next one is kept in the journal's other half, and one record
// says both. The package's comment says why that is enough. On errors the rotation stands
// where the last record says, as after [Engine.Step].
func (e *Engine) overlap(ctx context.Context) error {
	size := e.overlapZone()
	copying, saving := e.copier.split()
	var now saved // journaled, and the record says so
	next, paused := e.layout.zoneAt(e.record.Position, size), error(nil)
	for {
		var after saved
		var copyErr, saveErr error
		var both sync.WaitGroup
		if now.Length > 0 {
			both.Go(func() { copyErr = e.copyZone(copying, now.Zone) })
		}
		if next.Length > 0 {
			both.Go(func() { after, saveErr = e.save(saving, next, size-now.at) })
		}
		both.Wait()
		if copyErr == nil && now.Length > 0 && e.flushFailed(saveErr) {
			// The header may be on the same storage, which has dropped what was copied:
			// that a flush after it succeeds says nothing.
			copyErr = saveErr
		}
		if err := e.moveOn(now, after, copyErr); err != nil {
			return err
		}
		if now.Length > 0 && e.hooks.Progress != nil {
			e.hooks.Progress(Progress{Done: e.record.Done(), Total: e.layout.DataSize, Zone: now.Zone})
		}
		switch {
		case saveErr != nil:
			return saveErr
		case e.record.Phase == Finished:
			return nil
		case paused != nil:
			return paused
		}
		now = after
		next = Zone{}
		// What is in the journal is moved before it stops.
		if paused = e.boundary(ctx); paused == nil {
			next = e.layout.zoneAt(e.layout.after(now.Zone), size)
		}
	}
}

// moveOn records that one zone was moved, unless err says that it could not, and that
// the one after it is in the journal; each may be none.
func (e *Engine) moveOn(now, after saved, err error) error {
	r, between := e.record, after.Zone
	if now.Length > 0 {
		if err == nil {
			err = e.trusted()
		}
		r, between = e.moved(now.Zone), now.Zone
	}
	if after.Length > 0 {
		r = after.in(r)
	}
	if err == nil && r != e.record {
		err = e.commit(r, between)
	}
	if now.Length > 0 {
		err = e.orUndo(now.Zone, err)
	}
	if undecided(err) {
		e.settled = false
	}
	return err
}
