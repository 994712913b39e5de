// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"imxcrypt/internal/crashtest"
)

// soak reports whether to take the second cut after every state, and to try every state
// of it, instead of a sample. This takes hours instead of seconds.
func soak() bool { return os.Getenv("IMXCRYPT_SOAK") != "" }

// setups are the volumes of which every power cut is tried.
func setups() []setup {
	var all []setup
	for _, mode := range []Mode{Gap, Journal} {
		for _, direction := range []Direction{Forward, Backward} {
			for _, sectors := range [][2]int{{512, 512}, {4096, 4096}, {512, 4096}, {4096, 512}} {
				if crashtest.Slow() && sectors[0] != sectors[1] {
					continue // nothing in them is concurrent
				}
				s := setup{mode: mode, direction: direction, oldSector: sectors[0], newSector: sectors[1]}
				// A short last zone, and with large sectors more sectors in a zone than
				// every subset is tried of.
				s.zone, s.data = 3*512, 10*512
				if max(sectors[0], sectors[1]) == 4096 {
					s.zone, s.data = 2*4096, 5*4096
				}
				all = append(all, s)
			}
		}
	}
	return all
}

// walker tries states and counts them.
type walker struct {
	setup
	rng  *rand.Rand
	seed maphash.Seed
	// every is one in how many states after a cut is tried, again is one in how many is
	// recovered under a second cut, and thin is one in how many of the remaining states
	// is tried.
	every, again, thin int
	// alter breaks the engine's views, to show that the walk would notice.
	alter func(*rig, *Options)
	check func([]byte) error

	first, second, lost int
	example             error
	settled             map[uint64]bool
}

func newWalker(s setup, want []byte) *walker {
	w := &walker{
		setup: s, rng: rand.New(rand.NewPCG(5, 5)), seed: maphash.MakeSeed(), every: 1, again: 16, thin: 32,
		check: same(want), settled: map[uint64]bool{},
	}
	if s.oldSector != s.newSector {
		w.every = 4 // the order is the same, only the ciphers differ
	}
	switch {
	case crashtest.Slow():
		w.every, w.again, w.thin = 8, 16, 32
	case soak():
		w.every, w.again, w.thin = 1, 1, 1
	}
	return w
}

func (w *walker) options(r *rig) Options {
	o := r.options()
	if w.alter != nil {
		w.alter(r, &o)
	}
	return o
}

// rotate records a whole rotation, zone by zone, and walks it.
func (w *walker) rotate(t *testing.T, r *rig, depth int) {
	t.Helper()
	steps(t, r.engine(t, w.options(r)))
	w.walk(t, r, depth)
}

// steps moves one zone after the other to the end.
func steps(t *testing.T, e *Engine) {
	t.Helper()
	for {
		finished, err := e.Step(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if finished {
			return
		}
	}
}

// walk settles the volume in every state that a cut of what r recorded can leave. As long
// as depth permits, the first thing the next run does, recovery and one zone, is cut too.
func (w *walker) walk(t *testing.T, r *rig, depth int) {
	for st := range r.rec.States(crashtest.Options{Seed: 9}) {
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
			e := next.engine(t, w.options(next))
			if _, err := e.Recover(context.Background()); err == nil {
				_, _ = e.Step(context.Background())
			}
			w.walk(t, next, depth-1)
		}
		if w.known(raw, meta) {
			continue
		}
		next := newRig(t, w.setup, raw, meta)
		if err := next.settle(w.options(next), w.check); err != nil {
			w.lost++
			if w.example == nil {
				w.example = fmt.Errorf("%v: %w", st, err)
			}
		}
	}
}

// known reports whether the very same disks were settled before.
func (w *walker) known(raw, meta *crashtest.Image) bool {
	var h maphash.Hash
	h.SetSeed(w.seed)
	_, _ = h.Write(raw.Bytes())
	_, _ = h.Write(meta.Bytes())
	k := h.Sum64()
	defer func() { w.settled[k] = true }()
	return w.settled[k]
}

// Power is cut at every write and flush of a rotation, with every loss that the storage
// may cause, and again while the volume recovers from that.
func TestNoPowerCutLosesASector(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var first, second, lost int
	t.Run("rotations", func(t *testing.T) {
		for _, s := range setups() {
			t.Run(s.String(), func(t *testing.T) {
				t.Parallel()
				r, want := started(t, s)
				w := newWalker(s, want)
				w.rotate(t, r, 1)
				t.Logf("%d states after a cut, %d after a second one, %d lost", w.first, w.second, w.lost)
				if w.lost > 0 {
					t.Errorf("%d states lost, e.g. %v", w.lost, w.example)
				}
				mu.Lock()
				defer mu.Unlock()
				first, second, lost = first+w.first, second+w.second, lost+w.lost
			})
		}
	})
	t.Logf("all rotations: %d states after a cut, %d after a second one, %d lost", first, second, lost)
	if !crashtest.Slow() && (first < 10_000 || second < 10_000) {
		t.Error("too few states were tried to mean anything")
	}
}

// A cut during Begin leaves no record, or one at the start. Begin may be repeated.
func TestBeginMayBeCut(t *testing.T) {
	t.Parallel()
	s := setups()[0]
	empty := emptyRig(t, s)
	want := empty.fill(t)
	r := empty.restarted(t)
	if err := r.engine(t, r.options()).Begin(context.Background()); err != nil {
		t.Fatal(err)
	}
	tried, none := 0, 0
	for st := range r.rec.States(crashtest.Options{}) {
		tried++
		next := newRig(t, s, st.Image(r.raw), st.Image(r.meta))
		e := next.engine(t, next.options())
		if rec, err := e.Recover(context.Background()); errors.Is(err, ErrNoRecord) {
			none++
		} else if err != nil || rec.Done() != 0 {
			t.Fatalf("%v: %+v, %v", st, rec, err)
		}
		if err := e.Begin(context.Background()); err != nil {
			t.Fatalf("%v: Begin again: %v", st, err)
		}
		if err := next.settle(next.options(), same(want)); err != nil {
			t.Fatalf("%v: %v", st, err)
		}
	}
	t.Logf("%d states tried, %d of them without a record, 0 lost", tried, none)
	if none == 0 || none == tried {
		t.Error("the cuts do not reach both sides of the first record")
	}
}
