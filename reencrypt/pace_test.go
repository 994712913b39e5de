// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// storage holds a zone for a fixed time plus a time per MiB, with a jitter of up to a
// given share of both. Now and then it stalls, several times in close succession.
type storage struct {
	fixed, perMiB time.Duration
	jitter        float64
	stall         time.Duration
	often         float64 // share of all zones that begin a time of stalls
	rng           *rand.Rand
	stalling      int
}

// hold returns how long a zone is held; own leaves out what stalls add.
func (s *storage) hold(n int64) (held, own time.Duration) {
	t := float64(s.fixed) + float64(s.perMiB)*float64(n)/float64(mib)
	own = time.Duration(t * (1 + s.jitter*(2*s.rng.Float64()-1)))
	if s.often > 0 && s.rng.Float64() < s.often {
		s.stalling = 6
	}
	if s.stalling--; s.stalling >= 0 && s.stalling%2 == 1 {
		return own + s.stall, own
	}
	return own, own
}

const mib = 1 << 20

// zones is a layout with zones of at most the given size.
func zones(largest int64) Layout {
	return setup{mode: Gap, direction: Forward, oldSector: 4096, newSector: 4096, zone: largest, data: 64 * mib}.layout()
}

// run moves that many zones. It returns the mean size of the second half, and the hold
// that nine of ten of them do not exceed.
func (s *storage) run(p *pace, zones int) (size int64, held time.Duration) {
	s.rng = rand.New(rand.NewPCG(1, 7))
	var holds []time.Duration
	for i := range zones {
		z := p.size
		h, own := s.hold(z)
		p.adapt(z, h)
		if i >= zones/2 {
			size, holds = size+z, append(holds, own)
		}
	}
	slices.Sort(holds)
	return size / int64(len(holds)), holds[len(holds)*9/10]
}

func TestZonesFitTheStorage(t *testing.T) {
	t.Parallel()
	const target, ms = 100 * time.Millisecond, time.Millisecond
	for name, c := range map[string]struct {
		storage
		largest         int64 // zone; 1 MiB
		atLeast, atMost int64 // mean size of a zone
		longest         time.Duration
	}{
		"fast":                          {storage: storage{fixed: 5 * ms, perMiB: 10 * ms}, atLeast: mib, atMost: mib, longest: 20 * ms},
		"slow to copy":                  {storage: storage{fixed: 5 * ms, perMiB: 500 * ms}, atLeast: mib / 8, atMost: mib / 4, longest: 110 * ms},
		"slow to copy, jitter":          {storage: storage{fixed: 5 * ms, perMiB: 500 * ms, jitter: 0.3}, atLeast: mib / 10, atMost: mib / 3, longest: 130 * ms},
		"the target just in reach":      {storage: storage{fixed: 90 * ms, perMiB: 80 * ms}, atLeast: mib / 16, atMost: mib / 8, longest: 101 * ms},
		"slow whatever the size":        {storage: storage{fixed: 250 * ms, perMiB: 50 * ms}, atLeast: mib * 3 / 4, atMost: mib, longest: 300 * ms},
		"slow whatever the size, noise": {storage: storage{fixed: 250 * ms, perMiB: 50 * ms, jitter: 0.3}, atLeast: mib / 2, atMost: mib, longest: 400 * ms},
		"slow in everything":            {storage: storage{fixed: 200 * ms, perMiB: 800 * ms}, atLeast: mib / 8, atMost: mib / 2, longest: 500 * ms},
		"no more than twice":            {storage: storage{fixed: 110 * ms, perMiB: 80 * ms}, largest: 16 * mib, atLeast: mib / 2, atMost: 3 * mib / 2, longest: 231 * ms},
		"stalls":                        {storage: storage{fixed: 20 * ms, perMiB: 80 * ms, stall: 500 * ms, often: 0.02}, largest: 16 * mib, atLeast: mib / 4, atMost: mib * 5 / 4, longest: 110 * ms},
		"long stalls":                   {storage: storage{fixed: 20 * ms, perMiB: 80 * ms, stall: 2000 * ms, often: 0.01}, largest: 16 * mib, atLeast: mib / 4, atMost: mib * 5 / 4, longest: 110 * ms},
		"stalls, of fast storage":       {storage: storage{fixed: 5 * ms, perMiB: 30 * ms, stall: 300 * ms, often: 0.02}, largest: 4 * mib, atLeast: mib, atMost: 4 * mib, longest: 130 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.largest == 0 {
				c.largest = mib
			}
			p := newPace(zones(c.largest), target, true)
			size, held := c.run(&p, 400)
			t.Logf("zones of %d KiB, nine of ten held at most %v", size>>10, held)
			if size < c.atLeast || size > c.atMost || held > c.longest {
				t.Errorf("zones of %d bytes, held %v; expected %d to %d bytes, at most %v", size, held, c.atLeast, c.atMost, c.longest)
			}
		})
	}
}

// A system that was busy and no longer is ends up with the same sizes as one that never
// was, and vice versa.
func TestZonesFollowTheStorage(t *testing.T) {
	t.Parallel()
	busy := storage{fixed: 300 * time.Millisecond, perMiB: 200 * time.Millisecond, jitter: 0.2}
	idle := storage{fixed: 10 * time.Millisecond, perMiB: 160 * time.Millisecond, jitter: 0.2}
	p := newPace(zones(mib), 100*time.Millisecond, true)
	for range 3 {
		if size, held := busy.run(&p, 100); size < mib/2 {
			t.Errorf("busy: zones of %d KiB, held %v", size>>10, held)
		}
		if size, held := idle.run(&p, 100); held > 120*time.Millisecond {
			t.Errorf("idle: zones of %d KiB, held %v", size>>10, held)
		}
	}
}

// Zones shrink on a slow device and grow on a fast one, so that holds stay near the
// requested time.
func TestZonesAdaptToTheDevice(t *testing.T) {
	t.Parallel()
	l := setup{mode: Gap, direction: Forward, oldSector: 4096, newSector: 4096, zone: 8 * mib, data: 64 * mib}.layout()
	for _, c := range []struct {
		rate        int64 // bytes a second
		atLeast, to int64
	}{{1 * mib, 64 << 10, 128 << 10}, {20 * mib, mib, 2 * mib}, {1000 * mib, 8 * mib, 8 * mib}} {
		p := newPace(l, 100*time.Millisecond, true)
		for range 40 {
			p.adapt(p.size, time.Duration(p.size)*time.Second/time.Duration(c.rate))
			if p.size%l.align() != 0 || p.size > l.ZoneSize || p.size < smallestZone {
				t.Fatalf("zone of %d", p.size)
			}
		}
		if p.size < c.atLeast || p.size > c.to {
			t.Errorf("%d MiB/s: zones of %d", c.rate/mib, p.size)
		}
	}
	if p := newPace(l, 100*time.Millisecond, false); p.size != l.ZoneSize {
		t.Error("zones are small although nobody is held")
	}
}
