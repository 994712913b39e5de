// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// overlay is the volume as its users see it during a rotation: the three pieces, swapped
// by the hooks, with requests to the hot one waiting. It does with a mutex what
// device-mapper does with suspended tables.
type overlay struct {
	*rig
	mu     sync.Mutex
	change *sync.Cond
	pos    int64
	hot    Zone
	busy   map[Zone]int // requests in flight
}

func newOverlay(r *rig) *overlay {
	o := &overlay{rig: r, pos: r.l.begin(), busy: map[Zone]int{}}
	o.change = sync.NewCond(&o.mu)
	return o
}

func (o *overlay) Hold(_ context.Context, z Zone) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hot = z
	for o.inFlight(z) {
		o.change.Wait()
	}
	return nil
}

func (o *overlay) inFlight(z Zone) bool {
	for b := range o.busy {
		if b.Overlaps(z.Start, z.Length) {
			return true
		}
	}
	return false
}

func (o *overlay) Release(_ context.Context, z Zone, side View) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hot = Zone{}
	if side == New {
		o.pos = o.l.after(z)
	}
	o.change.Broadcast()
	return nil
}

// request handles one block, which is in a single piece.
func (o *overlay) request(off, n int64, do func(*cryptView) error) error {
	z := Zone{Start: off, Length: n}
	o.mu.Lock()
	for o.hot.Overlaps(off, n) {
		o.change.Wait()
	}
	side := Old
	for _, p := range o.l.Pieces(o.pos, Zone{}) {
		if p.Start <= off && off < p.Start+p.Length {
			side = p.Side
		}
	}
	o.busy[z]++
	o.mu.Unlock()
	err := do(o.view(side))
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy[z]--; o.busy[z] == 0 {
		delete(o.busy, z)
	}
	o.change.Broadcast()
	return err
}

// Several users read and write all the time, each its own blocks, while several lanes
// rotate the volume. They never see anything but what they wrote.
func TestUsersSeeTheirWritesWhileItIsRotated(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Gap, Journal} {
		for _, direction := range []Direction{Forward, Backward} {
			s := setup{mode: mode, direction: direction, oldSector: 512, newSector: 4096, zone: 16 << 10, data: 20<<14 + 4096}
			t.Run(s.String(), func(t *testing.T) {
				t.Parallel()
				r, want := started(t, s)
				vol := newOverlay(r)
				o := r.options()
				o.Lanes, o.Unit = 3, 4096
				o.Hooks = Hooks{Hold: vol.Hold, Release: vol.Release, Throttle: func(context.Context, int64) error {
					time.Sleep(time.Millisecond) // let the users run
					return nil
				}}
				e := r.engine(t, o)

				const users = 4
				stop := make(chan struct{})
				errs := make(chan error, users)
				var mu sync.Mutex
				writes := 0
				for u := range int64(users) {
					go func() {
						n, err := user(vol, want, u, users, stop)
						mu.Lock()
						writes += n
						mu.Unlock()
						errs <- err
					}()
				}
				if err := e.Run(context.Background()); err != nil {
					t.Error(err)
				}
				close(stop)
				for range users {
					if err := <-errs; err != nil {
						t.Error(err)
					}
				}
				got, err := r.read(e.Record().Pieces())
				if err != nil {
					t.Fatal(err)
				}
				if err := same(want)(got); err != nil {
					t.Error(err)
				}
				t.Logf("%d writes in %d zones, none lost", writes, e.Record().Zones)
				if writes == 0 {
					t.Error("nobody wrote")
				}
			})
		}
	}
}

// user works on its own blocks and keeps want, the model, up to date.
func user(vol *overlay, want []byte, me, users int64, stop chan struct{}) (writes int, err error) {
	const block = 4096
	rng := rand.New(rand.NewPCG(uint64(me), 4))
	buf := make([]byte, block)
	for {
		select {
		case <-stop:
			return writes, nil
		default:
		}
		off := (rng.Int64N(vol.data/block/users)*users + me) * block
		mine := want[off : off+block]
		err := vol.request(off, block, func(v *cryptView) error {
			_, err := v.ReadAt(buf, off)
			return err
		})
		if err == nil && !bytes.Equal(buf, mine) {
			err = fmt.Errorf("user %d reads at %d what it did not write", me, off)
		}
		if err != nil {
			return writes, err
		}
		noise(mine, rng.Uint64())
		if err := vol.request(off, block, func(v *cryptView) error {
			_, err := v.WriteAt(mine, off)
			return err
		}); err != nil {
			return writes, err
		}
		writes++
	}
}
