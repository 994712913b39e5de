// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"sync/atomic"
	"testing"
)

// While what is journaled is copied, what comes after it is journaled, and one record
// covers both. So there are fewer records than the two for each zone that is moved by
// itself.
func TestTheNextZoneIsJournaledWhileOneIsCopied(t *testing.T) {
	t.Parallel()
	for _, s := range streamSetups() {
		if s.mode == Gap {
			continue
		}
		r, _ := started(t, s)
		sched := newSchedule(1)
		o := streaming(r, sched)
		o.Lanes = 2
		w := &watchedZones{New: o.Views.New, journal: r.l.JournalOffset}
		o.Views.New, o.Views.Meta = w, watchedMeta{o.Views.Meta, w}
		e := r.engine(t, o)
		var err error
		sched.run(t, func() { err = e.Run(context.Background()) })
		zones := int64(e.Record().Zones)
		if err != nil || w.meanwhile.Load() == 0 || w.records.Load() >= 2*zones {
			t.Errorf("%v: %v, %d of %d zones journaled meanwhile, %d records", s, err, w.meanwhile.Load(), zones, w.records.Load())
		}
	}
}

// What is journaled next never shares a block of storage with what is still needed,
// whatever multiple of a sector the position is.
func TestRoomInARing(t *testing.T) {
	t.Parallel()
	for _, direction := range []Direction{Forward, Backward} {
		s := setup{mode: Journal, direction: direction, oldSector: 512, newSector: 512, zone: 4 * tornBlock, data: 16*tornBlock + 1536}
		r, _ := started(t, s)
		g := r.engine(t, streaming(r, newSchedule(1))).newRing()
		block := func(done int64) int64 { // of the byte that comes after so many
			z := r.l.between(span{done, done + 512})
			return z.Start % g.size / tornBlock
		}
		for done := int64(0); done < s.data-g.size; done += 512 {
			if room := g.room(done); room > done+g.size || room <= done+g.size-tornBlock || block(room-512) == block(done) && room-done > tornBlock {
				t.Fatalf("%v: with %d moved there is room up to %d", direction, done, room)
			}
		}
	}
}

// A ring of any length, with copies of any length: a copy never extends beyond its end.
// If the process is killed in the middle, what is journaled is put back from both ends of
// the ring.
func TestRingsOfAllLengths(t *testing.T) {
	t.Parallel()
	wrapped := 0
	for blocks := int64(2); blocks <= 40; blocks++ {
		for _, direction := range []Direction{Forward, Backward} {
			s := setup{mode: Journal, direction: direction, oldSector: 512, newSector: 512, zone: blocks*tornBlock + 512, data: 100*tornBlock + 1536}
			if blocks%2 == 0 {
				s.journal = 3 * s.zone // the ring is two zones long
			}
			base, want := started(t, s)
			for _, killed := range []bool{false, true} {
				r := base.restarted(t)
				o := r.options()
				o.Lanes, o.Unit = 3, 16<<10
				f := &faults{}
				if killed {
					f.bad = func(n int, _ string, _ View, _, _ int64) bool { return n > 60 }
				}
				o.Views = f.over(o.Views)
				first := s.zone
				o.Hooks.Progress = func(p Progress) {
					if p.Zone.Length == p.Done {
						first = p.Done
					}
				}
				e := r.engine(t, o)
				err := e.Run(context.Background())
				if killed != (err != nil) {
					t.Fatalf("%d blocks %v: %v", blocks, direction, err)
				}
				if rec := e.Record(); rec.Phase == Journaled && len(rec.journalParts()) > 1 {
					wrapped++
				}
				// header restore looks there for data that a rotation would have moved.
				if first < s.zone/4 {
					t.Fatalf("%d blocks %v: the first record moves the position by %d, no quarter of the longest zone", blocks, direction, first)
				}
				next := r.restarted(t)
				if err := next.settle(next.options(), same(want)); err != nil {
					t.Fatalf("%d blocks %v, killed %v: %v", blocks, direction, killed, err)
				}
			}
		}
	}
	if t.Logf("%d put back from both ends", wrapped); wrapped == 0 {
		t.Error("no zone that was put back lay at both ends")
	}
}

// watchedZones counts records, and the writes to the journal that begin during a copy.
type watchedZones struct {
	New     Writer
	journal int64

	copying, meanwhile, records atomic.Int64
}

func (w *watchedZones) WriteAt(p []byte, off int64) (int, error) {
	w.copying.Add(1)
	defer w.copying.Add(-1)
	return w.New.WriteAt(p, off)
}

func (w *watchedZones) Flush() error { return w.New.Flush() }

type watchedMeta struct {
	ReadWriter
	w *watchedZones
}

func (m watchedMeta) WriteAt(p []byte, off int64) (int, error) {
	switch {
	case off < m.w.journal:
		m.w.records.Add(1)
	case m.w.copying.Load() > 0:
		m.w.meanwhile.Add(1)
	}
	return m.ReadWriter.WriteAt(p, off)
}
