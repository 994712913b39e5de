// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/crashtest"
)

// schedule decides in which order concurrent requests begin and return: whenever all of
// them wait, it lets one continue.
type schedule struct {
	rng     *rand.Rand
	mu      sync.Mutex
	waiting []chan struct{}
}

func newSchedule(seed uint64) *schedule {
	return &schedule{rng: rand.New(rand.NewPCG(seed, 17))}
}

// turn waits until the caller may continue.
func (s *schedule) turn() {
	c := make(chan struct{})
	s.mu.Lock()
	s.waiting = append(s.waiting, c)
	s.mu.Unlock()
	<-c
}

// run runs do, whose requests take turns.
func (s *schedule) run(t *testing.T, do func()) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		done := false
		go func() { do(); done = true }()
		for {
			synctest.Wait()
			if len(s.waiting) == 0 {
				if !done {
					panic("everybody waits for ever")
				}
				return
			}
			i := s.rng.IntN(len(s.waiting))
			c := s.waiting[i]
			s.waiting[i] = s.waiting[len(s.waiting)-1]
			s.waiting = s.waiting[:len(s.waiting)-1]
			close(c)
		}
	})
}

// timed is a disk whose requests take time.
type timed struct {
	*schedule
	*crashtest.Disk
}

func (d timed) ReadAt(p []byte, off int64) (int, error) {
	d.turn()
	defer d.turn()
	return d.Disk.ReadAt(p, off)
}

func (d timed) WriteAt(p []byte, off int64) (int, error) {
	d.turn()
	returned, err := d.BeginWrite(p, off)
	d.turn()
	if err != nil {
		return 0, err
	}
	returned()
	return len(p), nil
}

func (d timed) Flush() error {
	d.turn()
	returned := d.BeginFlush()
	d.turn()
	return returned()
}

// streaming returns the rig's options with overlapping requests and copies as short as
// possible.
func streaming(r *rig, s *schedule) Options {
	o := r.options()
	raw := timed{s, r.raw}
	old, next := *r.old, *r.new
	old.dev, next.dev = raw, raw
	o.Views = Views{Old: &old, New: &next, Raw: raw, Meta: timed{s, r.meta}}
	o.Lanes, o.Unit = 1+s.rng.IntN(3), r.streamUnit()
	if r.mode == Journal {
		o.Lanes++
	}
	return o
}

// streamUnit returns the shortest copy with which requests overlap.
func (r *rig) streamUnit() int {
	if r.mode == Journal {
		return bufferAlign
	}
	return int(r.l.align())
}

// streamSetups are small volumes with a gap or a ring of several copies.
func streamSetups() []setup {
	var all []setup
	for _, s := range setups() {
		block := int64(max(s.oldSector, s.newSector))
		s.zone, s.data = 6*block, 17*block
		switch {
		case block == 4096:
			s.zone, s.data = 4*block, 9*block
		case s.mode == Journal: // the ring takes whole blocks of 4096 bytes
			s.zone, s.data = 4*4096, 8*4096+1536
		}
		all = append(all, s)
	}
	return all
}

// streamed is the walk over the cuts of one rotation whose requests overlap.
type streamed struct {
	walker
	seed uint64
	// views breaks the engine's views. further lets copies extend beyond the gap, or
	// journals more than the ring holds. Both are to show that the walk would notice.
	views   func(*schedule, *Views)
	further bool
}

// rotate records a rotation and tries its cuts.
func (w *streamed) rotate(t *testing.T, r *rig, depth int) {
	t.Helper()
	s := newSchedule(w.seed)
	o := streaming(r, s)
	if w.views != nil {
		w.views(s, &o.Views)
	}
	e := r.engine(t, o)
	run := e.Run
	switch {
	case w.further && r.mode == Gap:
		e.layout.ZoneSize += e.layout.align()
	case w.further:
		run = func(ctx context.Context) error {
			if err := e.ready(ctx); err != nil {
				return err
			}
			g := e.newRing()
			g.most += tornBlock
			g.saving.limit = g.room(0)
			return g.run(ctx)
		}
	}
	var err error
	s.run(t, func() { err = run(context.Background()) })
	if err != nil {
		t.Fatalf("seed %d: %v", w.seed, err)
	}
	w.tryCuts(t, r, depth)
}

// tryCuts is walk, except that the run after a first cut streams too.
func (w *streamed) tryCuts(t *testing.T, r *rig, depth int) {
	for st := range r.rec.States(crashtest.Options{Exhaustive: 8, Random: 8, Limit: 64, Seed: w.seed}) {
		if w.rng.IntN([]int{w.thin, w.every}[depth]) > 0 {
			continue
		}
		raw, meta := st.Image(r.raw), st.Image(r.meta)
		if depth > 0 {
			w.first++
		} else {
			w.second++
		}
		if depth > 0 && w.rng.IntN(w.again) == 0 {
			next := newRig(t, w.setup, raw, meta)
			w.seed++
			w.rotate(t, next, depth-1)
		}
		if w.known(raw, meta) {
			continue
		}
		next := newRig(t, w.setup, raw, meta)
		if err := next.settle(next.options(), w.check); err != nil {
			w.lost++
			if w.example == nil {
				w.example = fmt.Errorf("seed %d, %v: %w", w.seed, st, err)
			}
		}
	}
}

func newStreamed(s setup, want []byte, seed uint64) *streamed {
	w := &streamed{walker: *newWalker(s, want), seed: seed}
	w.every, w.again, w.thin = 8, 100, 8
	switch {
	case crashtest.Slow():
		w.every, w.again, w.thin = 30, 30, 30
	case soak():
		w.every, w.again, w.thin = 1, 20, 4
	}
	return w
}

// Copies are under way while others are flushed and recorded, in many orders. Power is
// cut at every flush, with every loss of what had not returned before a flush began, and
// again in the run after that.
func TestNoPowerCutLosesASectorOfAStream(t *testing.T) {
	t.Parallel()
	seeds := uint64(8)
	switch {
	case crashtest.Slow():
		seeds = 2
	case soak():
		seeds = 2000
	}
	var mu sync.Mutex
	var first, second, lost int
	t.Run("rotations", func(t *testing.T) {
		for _, s := range streamSetups() {
			t.Run(s.String(), func(t *testing.T) {
				t.Parallel()
				base, want := started(t, s)
				n := seeds
				if s.oldSector == s.newSector && s.oldSector == 512 {
					n *= 8 // a state costs little
				}
				for seed := range n {
					r := base.restarted(t)
					w := newStreamed(s, want, seed<<32)
					w.rotate(t, r, 1)
					if w.lost > 0 {
						t.Fatalf("%d of %d states lost, e.g. %v", w.lost, w.first+w.second, w.example)
					}
					mu.Lock()
					first, second, lost = first+w.first, second+w.second, lost+w.lost
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("streams: %d states after a cut, %d after a second one, %d lost", first, second, lost)
	if !crashtest.Slow() && (first < 10_000 || second < 10_000) {
		t.Error("too few states were tried to mean anything")
	}
}

// With any of a stream's rules broken, the same walk finds lost states.
func TestWrongStreamsLoseStates(t *testing.T) {
	t.Parallel()
	for name, views := range map[string]func(*schedule, *Views){
		"record before the copies are durable":             func(_ *schedule, v *Views) { v.New = noFlush{both{w: v.New}} },
		"place overwritten before the record is durable":   func(_ *schedule, v *Views) { v.Meta = noFlush{v.Meta} },
		"record after a flush that some copies are not in": func(s *schedule, v *Views) { v.New = hasty{s, both{w: v.New}} },
		"copies further than the gap, or the ring":         nil,
	} {
		for _, s := range streamSetups() {
			if s.oldSector != s.newSector {
				continue
			}
			t.Run(name+"/"+s.String(), func(t *testing.T) {
				t.Parallel()
				base, want := started(t, s)
				tried, lost := 0, 0
				for seed := uint64(0); lost == 0 && seed < 100; seed++ {
					r := base.restarted(t)
					w := newStreamed(s, want, seed<<32)
					w.views, w.further = views, views == nil
					w.rotate(t, r, 0)
					tried, lost = tried+w.second, lost+w.lost
				}
				t.Logf("%d of %d states lost", lost, tried)
				if lost == 0 {
					t.Error("the walk does not notice")
				}
			})
		}
	}
}

// hasty is a view whose writes return too early, so that a flush that begins then need
// not include them.
type hasty struct {
	*schedule
	ReadWriter
}

func (h hasty) WriteAt(p []byte, off int64) (int, error) {
	q := append([]byte(nil), p...)
	go func() { _, _ = h.ReadWriter.WriteAt(q, off) }()
	h.turn()
	return len(p), nil
}

// The storage dies at each request in turn, or only that request fails, while others are
// under way. The volume stays as it was, and the same engine, or the next one, continues
// when the storage works again.
func TestFaultsInAStream(t *testing.T) {
	t.Parallel()
	for _, s := range streamSetups() {
		if s.oldSector != s.newSector {
			continue
		}
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			base, want := started(t, s)
			unsettled, failed, survived := 0, 0, 0
			for at := 0; ; at++ {
				r := base.restarted(t)
				sched := newSchedule(uint64(at))
				f := &faults{bad: func(n int, _ string, _ View, _, _ int64) bool { return n == at || at%2 == 0 && n > at }}
				o := streaming(r, sched)
				o.Views = f.over(o.Views)
				e := r.engine(t, o)
				var err error
				sched.run(t, func() { err = e.Run(context.Background()) })
				if err == nil && f.n <= at {
					break // the rotation has no request of that number
				}
				switch {
				case err == nil:
					survived++
				case !errors.Is(err, unix.EIO):
					t.Fatalf("request %d: %v", at, err)
				case undecided(err):
					unsettled++
				default:
					failed++
					if rec := e.Record(); rec.Sequence > 0 {
						got, err := r.read(rec.Pieces())
						if err == nil {
							err = same(want)(got)
						}
						if err != nil {
							t.Fatalf("request %d: %v", at, err)
						}
					}
				}
				if at/2%2 == 0 {
					next := r.restarted(t)
					if err := next.settle(next.options(), same(want)); err != nil {
						t.Fatalf("request %d, then another process: %v", at, err)
					}
					continue
				}
				f.bad = nil
				sched.run(t, func() { err = e.Run(context.Background()) })
				got, rerr := r.read(e.Record().Pieces())
				if rerr == nil {
					rerr = same(want)(got)
				}
				if err != nil || rerr != nil || e.Record().Phase != Finished {
					t.Fatalf("request %d, then again: %v, %v", at, err, rerr)
				}
			}
			t.Logf("%d stopped, %d left a position in doubt, %d continued", failed, unsettled, survived)
			if failed == 0 || unsettled == 0 || survived == 0 {
				t.Error("not all of that was tried")
			}
		})
	}
}

// request is one kind of request: which view it is for, and where byte 0 of the volume is
// there.
type request struct {
	view View
	op   string
	from int64
}

// One block can never be read, or never be written, and everything else works. The stream
// ends, whatever was being recorded or waiting meanwhile, and says which block failed.
// Nothing is lost.
func TestABadBlockInAStream(t *testing.T) {
	t.Parallel()
	for _, s := range streamSetups() {
		if s.oldSector != s.newSector {
			continue
		}
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			base, want := started(t, s)
			block := int64(s.oldSector)
			runs := 0
			requests := []request{{Old, "read", 0}, {New, "write", 0}}
			if s.mode == Journal {
				requests = append(requests, request{Raw, "read", base.l.OldOffset}, request{Meta, "write", base.l.JournalOffset})
			}
			for i := int64(0); i < s.data; i += block {
				for _, q := range requests {
					at := q.from + i
					if q.view == Meta && i >= s.zone {
						continue
					}
					for seed := range uint64(8) {
						runs++
						r := base.restarted(t)
						sched := newSchedule(seed)
						o := streaming(r, sched)
						f := &faults{bad: func(_ int, what string, v View, off, n int64) bool {
							return what == q.op && v == q.view && off <= at && at < off+n
						}}
						o.Lanes, o.Views = 3, f.over(o.Views)
						e := r.engine(t, o)
						var err error
						sched.run(t, func() { err = e.Run(context.Background()) })
						var ioErr *IOError
						if !errors.As(err, &ioErr) || ioErr.Op != q.op || ioErr.View != q.view || ioErr.Offset != at {
							t.Fatalf("seed %d: %v, want a failed %s at %d of the %v", seed, err, q.op, at, q.view)
						}
						if next := r.restarted(t); next.settle(next.options(), same(want)) != nil {
							t.Fatalf("seed %d, %s at %d: lost", seed, q.op, at)
						}
					}
				}
			}
			t.Logf("%d runs into a bad block", runs)
		})
	}
}

// A stream that is paused, or whose context ends, records what was copied and stops.
// Nothing is lost, and it can continue.
func TestPauseInAStream(t *testing.T) {
	t.Parallel()
	for _, s := range streamSetups() {
		base, want := started(t, s)
		for seed := range uint64(10) {
			r := base.restarted(t)
			sched := newSchedule(seed)
			o := streaming(r, sched)
			ctx, cancel := context.WithCancel(context.Background())
			var e *Engine
			reported := int64(0)
			o.Hooks.Progress = func(p Progress) {
				if reported += p.Zone.Length; reported != p.Done || p.Held != 0 {
					t.Errorf("%v, seed %d: %+v after %d", s, seed, p, reported)
				}
				if seed%2 == 0 {
					e.Pause()
				} else {
					cancel()
				}
			}
			e = r.engine(t, o)
			var err error
			sched.run(t, func() { err = e.Run(ctx) })
			cancel()
			rec := e.Record()
			if !errors.Is(err, ErrPaused) || rec.Done() != reported || rec.Done() == 0 || rec.Phase == Finished {
				t.Fatalf("%v, seed %d: %v at %d of %d", s, seed, err, rec.Done(), s.data)
			}
			for _, b := range e.copier.bufs {
				if !bytes.Equal(b, make([]byte, len(b))) {
					t.Fatal("the user's data stays in the buffers")
				}
			}
			next := r.restarted(t)
			if err := next.settle(next.options(), same(want)); err != nil {
				t.Fatalf("%v, seed %d: %v", s, seed, err)
			}
		}
	}
}

// While a position is made durable, copies continue as far as the gap has room.
func TestCopiesGoOnWhileOthersAreMadeDurable(t *testing.T) {
	t.Parallel()
	for _, s := range streamSetups() {
		if s.mode == Journal {
			continue
		}
		r, _ := started(t, s)
		sched := newSchedule(1)
		o := streaming(r, sched)
		o.Lanes = 2
		watched := &watchedFlush{ReadWriter: both{w: o.Views.New}}
		o.Views.New = watched
		e := r.engine(t, o)
		var err error
		sched.run(t, func() { err = e.Run(context.Background()) })
		if err != nil || watched.during.Load() == 0 {
			t.Errorf("%v: %v, %d writes during flushes", s, err, watched.during.Load())
		}
	}
}

// watchedFlush counts the writes that begin during a flush.
type watchedFlush struct {
	ReadWriter
	flushing atomic.Bool
	during   atomic.Int64
}

func (w *watchedFlush) WriteAt(p []byte, off int64) (int, error) {
	if w.flushing.Load() {
		w.during.Add(1)
	}
	return w.ReadWriter.WriteAt(p, off)
}

func (w *watchedFlush) Flush() error {
	w.flushing.Store(true)
	defer w.flushing.Store(false)
	return w.ReadWriter.Flush()
}
