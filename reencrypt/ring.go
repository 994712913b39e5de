// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
)

// ring moves data in mode Journal without a stop between zones, if no zone is held and
// nothing throttles the rotation. The journal is a ring buffer, in which the place of
// each sector follows from its place in the volume. While what is journaled is copied,
// what comes after it is journaled, and one record covers both. The package comment has
// the rules, and why they are enough.
type ring struct {
	*Engine
	size int64 // where it wraps
	most int64 // that may be journaled at a time: size, except in a test that lets it be too much
	unit int64 // length of a lane's copy
	// recordEvery is how far a record usually moves the position. The first record that
	// moves it moves it at least this far.
	recordEvery int64
	sums        checksums

	mu     sync.Mutex
	change *sync.Cond
	saving track // to the journal
	moving track // from the old view to the new one; its limit is what the record has journaled
	moved  int64 // how far the record says everything is moved
	// ending is the reason why no more is journaled. What is journaled already is moved
	// first.
	ending error
	err    error // of the first copy that failed: what is journaled is put back
}

// unitsInRing is the least number of copies that a ring is divided into, unless it is
// tiny.
const unitsInRing = 8

// ringSize returns how much of the journal a ring takes: at most two zones, since that
// much may have to be put back after a cut. It is a multiple of unit, the length of a
// copy. It is 0 if there is no room to copy and to journal at the same time.
func (e *Engine) ringSize() (size, unit int64) {
	size = min(e.layout.JournalSize, 2*e.layout.ZoneSize)
	unit = max(roundDown(min(e.copier.unit, size/unitsInRing), tornBlock), tornBlock)
	if size < 2*unit || e.copier.unit < unit {
		return 0, 0
	}
	return size / unit * unit, unit
}

func (e *Engine) newRing() *ring {
	size, unit := e.ringSize()
	// While one quarter is made durable and recorded, another is moved, and a third is
	// journaled. The search for traces of a rotation relies on at least a quarter of a
	// zone.
	every := max(size, e.layout.ZoneSize) / 4
	g := &ring{Engine: e, size: size, most: size, unit: unit, recordEvery: every, sums: newChecksums(size)}
	g.change = sync.NewCond(&g.mu)
	done, lanes := e.record.Done(), len(e.copier.bufs)
	g.moving, g.saving, g.moved = newTrack(done, done, lanes), newTrack(done, g.room(done), lanes), done
	return g
}

// room returns how far may be journaled when a durable record says that everything below
// done is moved. Whatever comes after done is still needed.
func (g *ring) room(done int64) int64 {
	pos := g.layout.position(done)
	if g.layout.Direction == Backward {
		return g.layout.done(roundDown(pos+tornBlock-1, tornBlock) - g.most)
	}
	return roundDown(pos, tornBlock) + g.most
}

// ring moves everything that is left. After an error the rotation is where the last
// record says, as after [Engine.Step].
func (e *Engine) ring(ctx context.Context) error { return e.newRing().run(ctx) }

func (g *ring) run(ctx context.Context) error {
	var lanes sync.WaitGroup
	for i, buf := range g.copier.bufs {
		lanes.Go(func() { g.lane(i, buf) })
	}
	err := g.record(ctx)
	_ = g.stop(&g.err, err)
	lanes.Wait()
	if r := g.Engine.record; r.Phase == Journaled {
		err = g.orUndo(g.layout.exactZone(r.Position, r.Zone), err)
	}
	if undecided(err) {
		g.settled = false
	}
	return err
}

// lane copies until nothing is left or a copy has failed.
func (g *ring) lane(i int, buf []byte) {
	for {
		t, z := g.take(i)
		if t == nil {
			return
		}
		g.rest(i, t, g.copy(t, z, buf[:z.Length]))
	}
}

func (g *ring) copy(t *track, z Zone, p []byte) error {
	if t == &g.moving {
		if err := g.copier.read(Old, p, z.Start); err != nil {
			return err
		}
		return g.copier.write(New, p, z.Start)
	}
	if err := g.copier.read(Raw, p, g.layout.OldOffset+z.Start); err != nil {
		return err
	}
	at := z.Start % g.size
	g.sums.of(p, at)
	return g.copier.write(Meta, p, g.layout.JournalOffset+at)
}

// take gives a lane a copy that may be made now, of the kind that is behind. It waits
// until there is one, and returns nil if there will be none. It also waits while ending
// is set: a record under way may allow more copies.
func (g *ring) take(i int) (*track, Zone) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		save, move := g.next(&g.saving), g.next(&g.moving)
		if g.ending != nil {
			save = Zone{}
		}
		t, z := &g.moving, move
		if move.Length == 0 || save.Length > 0 && g.saving.next-g.moving.limit < g.moving.next-g.moved {
			t, z = &g.saving, save
		}
		switch {
		case g.err != nil || g.moving.next == g.layout.DataSize:
			return nil, Zone{}
		case z.Length > 0:
			t.begin(i, z.Length)
			return t, z
		}
		g.change.Wait()
	}
}

// next returns what comes next on a track, if it may be copied now.
func (g *ring) next(t *track) Zone {
	z := g.layout.zoneAt(g.layout.position(t.next), g.unit)
	if t.next+z.Length > t.limit {
		return Zone{}
	}
	return z
}

// rest ends a lane's copy. If a piece cannot be journaled, what is journaled already is
// still moved. After a failure a track's copied field means nothing: ripe uses err, or
// the limit.
func (g *ring) rest(i int, t *track, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil:
		t.end(i)
	case t == &g.moving && g.err == nil:
		g.err = err
	case t == &g.saving && g.ending == nil:
		g.ending = err
	}
	t.flying[i] = span{}
	g.change.Broadcast()
}

// stop sets a reason, ending or err, unless it is already set, and returns the one that
// counts.
func (g *ring) stop(reason *error, why error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if *reason == nil {
		*reason = why
	}
	g.change.Broadcast()
	return *reason
}

// ripe waits until enough is copied to be recorded, or no more will come. It returns how
// far everything is moved and how far it is journaled, or the error of a copy once all
// lanes are at rest.
func (g *ring) ripe() (moved, saved int64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		moved, saved = g.moving.copied, g.saving.copied
		if g.ending != nil {
			saved = g.moving.limit
		}
		switch {
		case g.err != nil && g.atRest():
			return 0, 0, g.err
		case g.err != nil:
		case moved-g.moved >= g.recordEvery, g.moving.limit == g.moved && saved-g.moved >= g.size/2, g.atRest():
			return moved, saved, nil
		}
		g.change.Wait()
	}
}

// atRest reports whether no lane is copying or will copy before something is recorded.
func (g *ring) atRest() bool {
	for i := range g.moving.flying {
		if !g.moving.flying[i].empty() || !g.saving.flying[i].empty() {
			return false
		}
	}
	return g.err != nil || g.next(&g.moving).Length == 0 && (g.ending != nil || g.next(&g.saving).Length == 0)
}

// record makes durable what the lanes copied, until everything is moved or the rotation
// is paused. It runs on the engine's own goroutine.
func (g *ring) record(ctx context.Context) error {
	for {
		moved, saved, err := g.ripe()
		if err == nil {
			err = g.commitTo(moved, saved)
		}
		if err != nil || g.Engine.record.Phase == Finished {
			return err
		}
		if why := g.stop(&g.ending, g.boundary(ctx)); why != nil && g.Engine.record.Phase == Moving {
			return why
		}
	}
}

// commitTo makes durable what is moved below moved and journaled below saved, and gives
// the lanes the room that this frees.
func (g *ring) commitTo(moved, saved int64) error {
	r, before := g.Engine.record, span{g.moved, moved}
	z, unsettled := g.layout.between(before), g.layout.between(span{g.moved, saved})
	if err := g.flushBoth(!before.empty(), saved > g.moving.limit); err != nil {
		return err
	}
	if !before.empty() {
		if err := g.trusted(); err != nil {
			return err
		}
		r = g.Engine.moved(z)
	}
	if saved > moved {
		r = g.journaled(r, g.layout.between(span{moved, saved}))
	}
	if r == g.Engine.record {
		return nil
	}
	if err := g.commit(r, unsettled); err != nil {
		return err
	}
	if g.dropped != nil && r.Phase != Finished {
		// The storage may also have dropped copies beyond the record: they are put back.
		return g.dropped
	}
	g.mu.Lock()
	g.moved, g.moving.limit, g.saving.limit = moved, saved, g.room(moved)
	g.change.Broadcast()
	g.mu.Unlock()
	if g.hooks.Progress != nil && !before.empty() {
		g.hooks.Progress(Progress{Done: moved, Total: g.layout.DataSize, Zone: z})
	}
	return nil
}

// flushBoth makes the copies and the journal durable. If one flush fails, neither counts:
// both may be on the same storage, which has dropped what was not durable of either and
// reports that only once.
func (g *ring) flushBoth(copies, journal bool) error {
	var err, copiesErr error
	var both sync.WaitGroup
	if copies {
		both.Go(func() { copiesErr = g.flush(New) })
	}
	if journal {
		err = g.flush(Meta)
	}
	both.Wait()
	return errors.Join(copiesErr, err)
}

// journaled returns the record that says that z is in the journal.
func (g *ring) journaled(r Record, z Zone) Record {
	at := z.Start % g.size
	digest := sha256.New()
	first := min(z.Length, g.size-at)
	digest.Write(g.sums.part(at, first))
	digest.Write(g.sums.part(0, z.Length-first))
	r.Phase, r.Zone, r.JournalAt, r.RingSize = Journaled, z.Length, at, g.size
	digest.Sum(r.Digest[:0])
	return r
}
