// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
)

// faults makes those requests fail that bad selects. A write that fails may have done
// half of its work.
type faults struct {
	mu  sync.Mutex
	n   int // requests so far
	bad func(n int, op string, v View, off, length int64) bool
}

func (f *faults) fail(op string, v View, off, length int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	return f.bad != nil && f.bad(f.n-1, op, v, off, length)
}

// over puts the faults between an engine and its views.
func (f *faults) over(v Views) Views {
	return Views{
		Old: faulty{f, Old, both{r: v.Old}}, New: faulty{f, New, both{w: v.New}},
		Raw: faulty{f, Raw, v.Raw}, Meta: faulty{f, Meta, v.Meta},
	}
}

type both struct {
	r io.ReaderAt
	w Writer
}

func (b both) ReadAt(p []byte, off int64) (int, error)  { return b.r.ReadAt(p, off) }
func (b both) WriteAt(p []byte, off int64) (int, error) { return b.w.WriteAt(p, off) }
func (b both) Flush() error                             { return b.w.Flush() }

type faulty struct {
	f    *faults
	view View
	dev  ReadWriter
}

func (d faulty) ReadAt(p []byte, off int64) (int, error) {
	if d.f.fail("read", d.view, off, int64(len(p))) {
		return 0, unix.EIO
	}
	return d.dev.ReadAt(p, off)
}

func (d faulty) WriteAt(p []byte, off int64) (int, error) {
	if d.f.fail("write", d.view, off, int64(len(p))) {
		if n := len(p) / 2 &^ 4095; n > 0 {
			_, _ = d.dev.WriteAt(p[:n], off)
		}
		return 0, unix.EIO
	}
	return d.dev.WriteAt(p, off)
}

func (d faulty) Flush() error {
	if d.f.fail("flush", d.view, 0, 0) {
		return unix.EIO
	}
	return d.dev.Flush()
}

// holder checks that hooks come in pairs.
type holder struct {
	t        *testing.T
	held     Zone
	released map[View]int
}

func newHolder(t *testing.T) *holder { return &holder{t: t, released: map[View]int{}} }

func (h *holder) hooks() Hooks {
	return Hooks{
		Hold: func(_ context.Context, z Zone) error {
			if h.held.Length > 0 {
				h.t.Errorf("%v held while %v is", z, h.held)
			}
			h.held = z
			return nil
		},
		Release: func(_ context.Context, z Zone, side View) error {
			if h.held != z || z.Length == 0 {
				h.t.Errorf("%v released, %v held", z, h.held)
			}
			h.held = Zone{}
			h.released[side]++
			return nil
		},
	}
}

// The storage dies at each request in turn, or only that request fails. Wherever it
// happens, the volume stays as it was, and the same engine continues when the storage
// works again.
func TestFaultAtEveryRequest(t *testing.T) {
	t.Parallel()
	for _, s := range setups() {
		if s.oldSector != s.newSector {
			continue
		}
		for _, c := range []struct{ forever, restart bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
			t.Run(fmt.Sprintf("%v, for good %t, then a new process %t", s, c.forever, c.restart), func(t *testing.T) {
				t.Parallel()
				base, want := started(t, s)
				unsettled, failed, survived := 0, 0, 0
				for at := 0; ; at++ {
					r := base.restarted(t)
					f := &faults{}
					h := newHolder(t)
					o := r.options()
					o.Views, o.Hooks = f.over(o.Views), h.hooks()
					e := r.engine(t, o)
					f.bad = func(n int, _ string, _ View, _, _ int64) bool { return n == at || c.forever && n > at }
					err := e.Run(context.Background())
					f.bad = nil
					if err == nil && f.n <= at {
						break // the rotation has no request of that number
					}
					switch {
					case err == nil:
						survived++
					case !errors.Is(err, unix.EIO) || fault.CodeOf(err) != fault.IOFailed:
						t.Fatalf("request %d: %v has the code %s", at, err, fault.CodeOf(err))
					case undecided(err):
						unsettled++
						if h.held.Length == 0 {
							t.Fatalf("request %d: a zone that is neither was released", at)
						}
					default:
						failed++
						if h.held.Length > 0 {
							t.Fatalf("request %d: %v stays held: %v", at, h.held, err)
						}
						if rec := e.Record(); rec.Sequence > 0 {
							got, rerr := r.read(rec.Pieces())
							if rerr != nil {
								t.Fatal(rerr)
							}
							if rerr := same(want)(got); rerr != nil {
								t.Fatalf("request %d: stopped by %v: %v", at, err, rerr)
							}
						}
					}
					if c.restart {
						next := r.restarted(t)
						if err := next.settle(next.options(), same(want)); err != nil {
							t.Fatalf("request %d: %v", at, err)
						}
						continue
					}
					if err := e.Run(context.Background()); err != nil || h.held.Length > 0 {
						t.Fatalf("request %d: going on: %v, %v held", at, err, h.held)
					}
					got, err := r.read(e.Record().Pieces())
					if err == nil {
						err = same(want)(got)
					}
					if err != nil || e.Record().Phase != Finished {
						t.Fatalf("request %d: at the end (%s): %v", at, e.Record().Phase, err)
					}
				}
				t.Logf("%d stopped, %d left a zone unsettled, %d continued", failed, unsettled, survived)
			})
		}
	}
}

// If a block is bad, the error says which one, and through which mapping. The zone goes
// back to the old side, and the rest can be finished once the block is repaired.
func TestBadBlockStopsAtItsZone(t *testing.T) {
	t.Parallel()
	const zone, bad = 3 * 512, 5 * 512 // bad is a block in the second zone
	for _, c := range []struct {
		mode Mode
		op   string
		view View
		at   int64 // where the error must be
		done int   // zones before it
	}{
		{Gap, "read", Old, bad, 1},
		{Gap, "write", New, bad, 1},
		{Journal, "read", Old, bad, 1},
		{Journal, "write", New, bad, 1},
		{Journal, "read", Raw, testMargin + bad, 1},
		{Journal, "write", Meta, 4096 + RecordArea + 512, 0},
	} {
		t.Run(fmt.Sprintf("%v, %s of the %v", c.mode, c.op, c.view), func(t *testing.T) {
			t.Parallel()
			r, want := started(t, setup{mode: c.mode, direction: Forward, oldSector: 512, newSector: 512, zone: zone, data: 10 * 512})
			f := &faults{bad: func(_ int, op string, v View, off, n int64) bool {
				return op == c.op && v == c.view && off <= c.at && c.at < off+n
			}}
			h := newHolder(t)
			o := r.options()
			o.Views, o.Hooks, o.Lanes = f.over(o.Views), h.hooks(), 2
			e := r.engine(t, o)
			err := e.Run(context.Background())
			var ioErr *IOError
			if !errors.As(err, &ioErr) || ioErr.Op != c.op || ioErr.View != c.view || ioErr.Offset != c.at {
				t.Fatalf("got %v, want a failed %s at %d of the %v", err, c.op, c.at, c.view)
			}
			if !errors.Is(err, unix.EIO) || fault.CodeOf(err) != fault.IOFailed {
				t.Errorf("%v: code %s, errno lost or wrong", err, fault.CodeOf(err))
			}
			if h.released[New] != c.done || h.released[Old] != 1 {
				t.Errorf("zones released: %v", h.released)
			}
			if got := e.Record(); got.Done() != int64(c.done*zone) || got.Phase != Moving {
				t.Errorf("stopped at %d, %s", got.Done(), got.Phase)
			}
			got, err := r.read(e.Record().Pieces())
			if err == nil {
				err = same(want)(got)
			}
			if err != nil {
				t.Error(err)
			}
			next := r.restarted(t)
			if err := next.settle(next.options(), same(want)); err != nil {
				t.Error(err)
			}
		})
	}
}

// A failed write of the record does not show what is durable. The engine looks.
func TestFailedRecordIsLookedAt(t *testing.T) {
	t.Parallel()
	s := setup{mode: Gap, direction: Forward, oldSector: 512, newSector: 512, zone: 3 * 512, data: 10 * 512}
	for _, c := range []struct {
		name            string
		bad             func(op string, count map[string]int) bool
		done            int64
		unsettled, goes bool
	}{
		{name: "written, but its flush failed once", goes: true, done: s.data,
			bad: func(op string, n map[string]int) bool { return op == "flush" && n[op] == 2 }},
		{name: "not written", done: 0,
			bad: func(op string, n map[string]int) bool { return op == "write" && n[op] == 1 }},
		{name: "flushes fail from then on", done: 0, unsettled: true,
			bad: func(op string, n map[string]int) bool { return op == "flush" && n[op] >= 2 }},
		{name: "cannot be read back", done: 0, unsettled: true,
			bad: func(op string, n map[string]int) bool { return op == "write" || op == "read" && n["write"] > 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, want := started(t, s)
			count := map[string]int{}
			f := &faults{bad: func(_ int, op string, v View, _, _ int64) bool {
				if v != Meta {
					return false
				}
				count[op]++
				bad := c.bad(op, count)
				// The kernel reports a page that could not be written only once, and then
				// treats it as clean: a later flush proves nothing, unless the record was
				// written again.
				if op == "flush" && !bad && count["lost"] > 0 && count["write"] == count["lost"] {
					count["believed"]++
				}
				if op == "flush" && bad {
					count["lost"] = count["write"]
				}
				return bad
			}}
			h := newHolder(t)
			o := r.options()
			o.Views, o.Hooks = f.over(o.Views), h.hooks()
			e := r.engine(t, o)
			err := e.Run(context.Background())
			if (err == nil) != c.goes || undecided(err) != c.unsettled || e.Record().Done() != c.done {
				t.Fatalf("stopped at %d by %v", e.Record().Done(), err)
			}
			if c.goes && count["believed"] > 0 {
				t.Error("a record counts whose flush failed, and which was not written again")
			}
			if held := h.held.Length > 0; held != c.unsettled {
				t.Errorf("held: %t", held)
			}
			f.bad = nil
			if err := e.Run(context.Background()); err != nil || h.held.Length > 0 {
				t.Fatalf("afterwards: %v, %v held", err, h.held)
			}
			got, err := r.read(e.Record().Pieces())
			if err == nil {
				err = same(want)(got)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// A journal that does not match its record is damage: nothing is overwritten with it.
func TestDamagedJournalIsRefused(t *testing.T) {
	t.Parallel()
	s := setup{mode: Journal, direction: Forward, oldSector: 4096, newSector: 4096, zone: 8192, data: 5 * 4096}
	r, _ := started(t, s)
	f := &faults{bad: func(_ int, op string, v View, off, _ int64) bool {
		return op == "write" && (v == Raw || v == New && off == 4096)
	}}
	o := r.options()
	o.Views = f.over(o.Views)
	var unsettled *UnsettledError
	if err := r.engine(t, o).Run(context.Background()); !errors.As(err, &unsettled) {
		t.Fatal(err)
	}
	r = r.restarted(t)
	if _, err := r.meta.WriteAt(make([]byte, 512), r.l.JournalOffset+512); err != nil {
		t.Fatal(err)
	}
	before := len(r.rec.Log())
	_, err := r.engine(t, r.options()).Recover(context.Background())
	var damaged *JournalError
	if !errors.As(err, &damaged) || fault.CodeOf(err) != fault.RotationDamaged || damaged.Zone != unsettled.Zone {
		t.Fatalf("got %v", err)
	}
	for _, op := range r.rec.Log()[before:] {
		if op.Kind != crashtest.Flush {
			t.Errorf("wrote: %v", op)
		}
	}
}
