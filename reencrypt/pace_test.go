// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"math/rand/v2"
	"testing"
	"time"
)

// storage holds a zone for a fixed time and one for each MiB, with a jitter of up
// to so much of both.
type storage struct {
	fixed, perMiB time.Duration
	jitter        float64
	rng           *rand.Rand
}

func (s storage) hold(n int64) time.Duration {
	t := float64(s.fixed) + float64(s.perMiB)*float64(n)/float64(mib)
	return time.Duration(t * (1 + s.jitter*(2*s.rng.Float64()-1)))
}

const mib = 1 << 20

// wholeMiB is a layout whose zones are 1 MiB at most.
func wholeMiB() Layout {
	return setup{mode: Gap, direction: Forward, oldSector: 4096, newSector: 4096, zone: mib, data: 64 * mib}.layout()
}

// run moves so many zones, and returns the mean size and hold of the latter half.
func (s storage) run(p *pace, zones int) (size int64, held time.Duration) {
	s.rng = rand.New(rand.NewPCG(1, 7))
	n := 0
	for i := range zones {
		z := p.size
		h := s.hold(z)
		p.took(z, h)
		if i >= zones/2 {
			size, held, n = size+z, held+h, n+1
		}
	}
	return size / int64(n), held / time.Duration(n)
}

func TestZonesFitTheStorage(t *testing.T) {
	t.Parallel()
	const target = 100 * time.Millisecond
	for name, c := range map[string]struct {
		storage
		atLeast, atMost int64 // mean size of a zone
		longest         time.Duration
	}{
		"fast":                          {storage: storage{fixed: 5 * time.Millisecond, perMiB: 10 * time.Millisecond}, atLeast: mib, atMost: mib, longest: 20 * time.Millisecond},
		"slow to copy":                  {storage: storage{fixed: 5 * time.Millisecond, perMiB: 500 * time.Millisecond}, atLeast: mib / 8, atMost: mib / 4, longest: 110 * time.Millisecond},
		"slow to copy, jitter":          {storage: storage{fixed: 5 * time.Millisecond, perMiB: 500 * time.Millisecond, jitter: 0.3}, atLeast: mib / 10, atMost: mib / 3, longest: 150 * time.Millisecond},
		"slow whatever the size":        {storage: storage{fixed: 250 * time.Millisecond, perMiB: 50 * time.Millisecond}, atLeast: mib * 3 / 4, atMost: mib, longest: 300 * time.Millisecond},
		"slow whatever the size, noise": {storage: storage{fixed: 250 * time.Millisecond, perMiB: 50 * time.Millisecond, jitter: 0.3}, atLeast: mib / 2, atMost: mib, longest: 400 * time.Millisecond},
		"slow in everything":            {storage: storage{fixed: 200 * time.Millisecond, perMiB: 800 * time.Millisecond}, atLeast: mib / 8, atMost: mib / 2, longest: 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPace(wholeMiB(), target, true)
			size, held := c.run(&p, 200)
			t.Logf("zones of %d KiB, held %v: %.0f KiB/s", size>>10, held, float64(size)/1024/held.Seconds())
			if size < c.atLeast || size > c.atMost || held > c.longest {
				t.Errorf("zones of %d bytes, held %v; expected %d to %d bytes, at most %v", size, held, c.atLeast, c.atMost, c.longest)
			}
		})
	}
}

// A system that was busy and no longer is gets the sizes of one that never was,
// and the other way round.
func TestZonesFollowTheStorage(t *testing.T) {
	t.Parallel()
	busy := storage{fixed: 300 * time.Millisecond, perMiB: 200 * time.Millisecond, jitter: 0.2}
	idle := storage{fixed: 10 * time.Millisecond, perMiB: 160 * time.Millisecond, jitter: 0.2}
	p := newPace(wholeMiB(), 100*time.Millisecond, true)
	for range 3 {
		if size, held := busy.run(&p, 100); size < mib/2 {
			t.Errorf("busy: zones of %d KiB, held %v", size>>10, held)
		}
		if size, held := idle.run(&p, 100); held > 120*time.Millisecond {
			t.Errorf("idle: zones of %d KiB, held %v", size>>10, held)
		}
	}
}
