// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
)

func flushes(log []crashtest.Op) map[string]int {
	n := map[string]int{}
	for _, op := range log {
		if op.Kind == crashtest.Flush {
			n[op.Disk.Name()]++
		}
	}
	return n
}

// Flushes are what a small zone costs: none is superfluous.
func TestFlushesPerZone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode      Mode
		raw, meta int
	}{{Gap, 1, 1}, {Journal, 1, 3}} {
		r, _ := started(t, setup{mode: c.mode, direction: Forward, oldSector: 512, newSector: 512, zone: 1536, data: 5120})
		e := r.engine(t, r.options())
		if _, err := e.Recover(context.Background()); err != nil {
			t.Fatal(err)
		}
		before := flushes(r.rec.Log())
		if _, err := e.Step(context.Background()); err != nil {
			t.Fatal(err)
		}
		after := flushes(r.rec.Log())
		raw, meta := after["disk"]-before["disk"], after["header"]-before["header"]
		if raw != c.raw || meta != c.meta {
			t.Errorf("%v: %d flushes of the data, %d of the header area", c.mode, raw, meta)
		}
	}
}

// If programs use the volume, copies are shorter and fewer at a time, since the programs'
// requests wait behind them.
func TestCopiesAreShorterBesidePrograms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ zone, alone, beside int64 }{{1 << 20, 256 << 10, 64 << 10}, {8 << 20, 1 << 20, 256 << 10}} {
		for shared, want := range map[bool]int64{false: c.alone, true: c.beside} {
			r, _ := started(t, setup{mode: Gap, direction: Forward, oldSector: 4096, newSector: 4096, zone: c.zone, data: 2 * c.zone})
			o := r.options()
			o.Lanes, o.Unit = 4, 1<<20
			w := &measured{Writer: o.Views.New}
			o.Views.New = w
			o.Hooks = newHolder(t).hooks()
			o.Hooks.Shared = func() bool { return shared }
			if err := r.engine(t, o).Run(context.Background()); err != nil {
				t.Fatal(err)
			}
			if w.longest.Load() != want || shared && w.most.Load() > 2 {
				t.Errorf("zones of %d, programs %t: copies of %d, not %d, and %d at a time", c.zone, shared, w.longest.Load(), want, w.most.Load())
			}
		}
	}
}

// measured is a view that notes the longest write and how many writes were under way at a
// time.
type measured struct {
	Writer
	now, most, longest atomic.Int64
}

func (w *measured) WriteAt(p []byte, off int64) (int, error) {
	raise(&w.longest, int64(len(p)))
	raise(&w.most, w.now.Add(1))
	defer w.now.Add(-1)
	return w.Writer.WriteAt(p, off)
}

func raise(v *atomic.Int64, to int64) {
	for {
		was := v.Load()
		if was >= to || v.CompareAndSwap(was, to) {
			return
		}
	}
}

// MaxHold may change in the middle of a rotation.
func TestMaxHoldMayChange(t *testing.T) {
	t.Parallel()
	const perKiB = 400 * time.Microsecond
	now, most := time.Time{}, 100*time.Millisecond
	var early, late []time.Duration
	r, _ := started(t, setup{mode: Gap, direction: Forward, oldSector: 4096, newSector: 4096, zone: 1 << 20, data: 8 << 20})
	o := r.options()
	o.MaxHold, o.Unit, o.Now = most, 1<<20, func() time.Time { return now }
	o.Hooks = newHolder(t).hooks()
	release := o.Hooks.Release
	o.Hooks.Release = func(ctx context.Context, z Zone, side View) error {
		now = now.Add(time.Duration(z.Length>>10) * perKiB)
		return release(ctx, z, side)
	}
	o.Hooks.MaxHold = func() time.Duration { return most }
	o.Hooks.Progress = func(p Progress) {
		if p.Done < p.Total/2 {
			early = append(early, p.Held)
			return
		}
		most = 40 * time.Millisecond
		late = append(late, p.Held)
	}
	if err := r.engine(t, o).Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if slices.Max(early[2:]) <= most || slices.Max(late[2:]) > most {
		t.Errorf("held for %v, and then for %v", early, late)
	}
}

// In mode Gap recovery has nothing to write.
func TestRecoverWritesOnlyWhatMustBeUndone(t *testing.T) {
	t.Parallel()
	r, _ := started(t, setup{mode: Gap, direction: Backward, oldSector: 512, newSector: 512, zone: 1536, data: 5120})
	if _, err := r.engine(t, r.options()).Step(context.Background()); err != nil {
		t.Fatal(err)
	}
	r = r.restarted(t)
	for range 2 {
		if rec, err := r.engine(t, r.options()).Recover(context.Background()); err != nil || rec.Done() != 512 {
			t.Fatal(rec, err)
		}
	}
	for _, op := range r.rec.Log() {
		if op.Kind != crashtest.Flush {
			t.Errorf("recovery wrote: %v", op)
		}
	}
}

func TestPauseAtAZoneBoundary(t *testing.T) {
	t.Parallel()
	why := errors.New("the system goes to sleep")
	for _, c := range []struct {
		name  string
		stop  func(e *Engine, cancel context.CancelCauseFunc)
		cause error
	}{
		{"asked", func(e *Engine, _ context.CancelCauseFunc) { e.Pause() }, ErrPaused},
		{"context", func(_ *Engine, cancel context.CancelCauseFunc) { cancel(why) }, why},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, want := started(t, setup{mode: Journal, direction: Forward, oldSector: 512, newSector: 512, zone: 1536, data: 5120})
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			h := newHolder(t)
			o := r.options()
			o.Hooks = h.hooks()
			var e *Engine
			hold := o.Hooks.Hold
			o.Hooks.Hold = func(ctx context.Context, z Zone) error {
				c.stop(e, cancel) // in the middle of the first zone
				return hold(ctx, z)
			}
			e = r.engine(t, o)
			err := e.Run(ctx)
			if !errors.Is(err, ErrPaused) || !errors.Is(err, c.cause) || fault.CodeOf(err) != fault.Interrupted {
				t.Fatalf("paused by %v", err)
			}
			if e.Record().Done() != 1536 || h.held.Length > 0 || h.released[New] != 1 {
				t.Errorf("paused at %d, %v held", e.Record().Done(), h.held)
			}
			next := r.restarted(t)
			if err := next.settle(next.options(), same(want)); err != nil {
				t.Error(err)
			}
		})
	}
}

// If the context has already ended, nothing is touched.
func TestEndedContextTouchesNothing(t *testing.T) {
	t.Parallel()
	r, _ := started(t, setup{mode: Gap, direction: Forward, oldSector: 512, newSector: 512, zone: 1536, data: 5120})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e := r.engine(t, r.options())
	_, stepErr := e.Step(ctx)
	_, recoverErr := e.Recover(ctx)
	for _, err := range []error{e.Run(ctx), e.Begin(ctx), stepErr, recoverErr} {
		if !errors.Is(err, ErrPaused) || !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if log := r.rec.Log(); len(log) > 0 {
		t.Errorf("did %v", log)
	}
}

func TestHooksThatFail(t *testing.T) {
	t.Parallel()
	boom := errors.New("no table")
	s := setup{mode: Gap, direction: Forward, oldSector: 512, newSector: 512, zone: 1536, data: 5120}

	t.Run("hold", func(t *testing.T) {
		t.Parallel()
		r, _ := started(t, s)
		o := r.options()
		o.Hooks.Hold = func(context.Context, Zone) error { return boom }
		o.Hooks.Release = func(context.Context, Zone, View) error { t.Error("released what was not held"); return nil }
		e := r.engine(t, o)
		if err := e.Run(context.Background()); !errors.Is(err, boom) || e.Record().Done() != 0 {
			t.Errorf("%v at %d", err, e.Record().Done())
		}
	})
	t.Run("release", func(t *testing.T) {
		t.Parallel()
		r, _ := started(t, s)
		h := newHolder(t)
		o := r.options()
		o.Hooks = h.hooks()
		release, fails := o.Hooks.Release, 2
		o.Hooks.Release = func(ctx context.Context, z Zone, v View) error {
			if fails--; fails >= 0 {
				return boom
			}
			return release(ctx, z, v)
		}
		e := r.engine(t, o)
		for range 2 {
			if err := e.Run(context.Background()); !errors.Is(err, boom) || e.Record().Done() != 1536 {
				t.Fatalf("%v at %d", err, e.Record().Done())
			}
		}
		if err := e.Run(context.Background()); err != nil || h.released[New] != 4 || h.held.Length > 0 {
			t.Errorf("%v, released %v", err, h.released)
		}
	})
	t.Run("throttle", func(t *testing.T) {
		t.Parallel()
		r, _ := started(t, s)
		o := r.options()
		var asked []int64
		o.Hooks.Throttle = func(_ context.Context, n int64) error {
			if asked = append(asked, n); len(asked) == 3 {
				return boom
			}
			return nil
		}
		e := r.engine(t, o)
		if err := e.Run(context.Background()); !errors.Is(err, boom) || e.Record().Done() != 2*1536 {
			t.Errorf("%v at %d", err, e.Record().Done())
		}
		if fmt.Sprint(asked) != "[1536 1536 1536]" {
			t.Error(asked)
		}
	})
}

func TestProgressAddsUp(t *testing.T) {
	t.Parallel()
	r, _ := started(t, setup{mode: Gap, direction: Backward, oldSector: 512, newSector: 512, zone: 1536, data: 5120})
	o := r.options()
	done := int64(0)
	o.Hooks.Progress = func(p Progress) {
		done += p.Zone.Length
		if p.Done != done || p.Total != 5120 {
			t.Errorf("%+v after %d", p, done)
		}
	}
	e := r.engine(t, o)
	if err := e.Run(context.Background()); err != nil || done != 5120 {
		t.Error(err, done)
	}
	if finished, err := e.Step(context.Background()); err != nil || !finished {
		t.Errorf("a step after the last: %t, %v", finished, err)
	}
}

func TestOneAtATime(t *testing.T) {
	t.Parallel()
	r, _ := started(t, setup{mode: Gap, direction: Backward, oldSector: 512, newSector: 512, zone: 1536, data: 5120})
	o := r.options()
	var e *Engine
	o.Hooks.Throttle = func(ctx context.Context, _ int64) error {
		_, stepErr := e.Step(ctx)
		_, recErr := e.Recover(ctx)
		for _, err := range []error{e.Run(ctx), e.Begin(ctx), stepErr, recErr} {
			if fault.CodeOf(err) != fault.Busy {
				t.Errorf("a second one at the same time: %v", err)
			}
		}
		return nil
	}
	e = r.engine(t, o)
	if _, err := e.Step(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// The engine's memory is its buffers, whatever the size of the volume.
func TestMemoryDoesNotGrowWithTheVolume(t *testing.T) {
	t.Parallel()
	r, _ := started(t, setup{mode: Gap, direction: Forward, oldSector: 512, newSector: 512, zone: 1 << 20, data: 4 << 20})
	o := r.options()
	o.Lanes, o.Unit = 0, 0
	e := r.engine(t, o)
	total := 0
	for _, b := range e.copier.bufs {
		total += len(b)
		if uintptr(unsafe.Pointer(&b[0]))%bufferAlign != 0 {
			t.Error("a buffer is not aligned for O_DIRECT")
		}
	}
	if total != defaultLanes*defaultUnit {
		t.Errorf("%d bytes of buffers", total)
	}
	if err := e.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, b := range e.copier.bufs {
		for _, c := range b {
			if c != 0 {
				t.Fatal("the user's data stays in the buffers")
			}
		}
	}
}
