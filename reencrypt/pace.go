// SPDX-License-Identifier: Apache-2.0

package reencrypt

import "time"

// smallestZone is the size below which no zone shrinks: any smaller, the flushes cost
// more than the copying, and holds get no shorter.
const smallestZone = 64 << 10

// pace chooses the size of the zones so that none is held longer than target. A part of
// each hold, flushing and changing tables, takes the same time for all sizes. On a busy
// or slow system that part alone exceeds the target. So if even the smallest zones are
// held too long, zones grow until a hold is twice as long as that of a smallest zone:
// half of it is then copying, and the rotation is many times as fast.
type pace struct {
	size           int64 // of the next zone
	least, largest int64
	align          int64
	target         time.Duration // 0: always the largest
	climb          climb
}

func newPace(l Layout, target time.Duration, live bool) pace {
	p := pace{largest: l.ZoneSize, align: l.zoneAlign()}
	p.least = min(max(smallestZone, p.align), p.largest)
	p.size = p.largest
	if live && target > 0 {
		// Start small: the device's speed is unknown.
		p.target, p.size = target, p.clamp(p.largest/4)
	}
	return p
}

func (p *pace) clamp(n int64) int64 {
	return min(max(roundDown(n, p.align), p.least), p.largest)
}

// resume continues with the zone size of an earlier run, unless that is larger than a
// first zone: a run on a locked volume moves larger zones.
func (p *pace) resume(zone int64) {
	if p.target > 0 && zone > 0 {
		p.size = min(p.size, p.clamp(zone))
	}
}

// adapt learns from a zone of n bytes. If the hold was too long, the size is corrected at
// once; if it was short, the size is doubled.
func (p *pace) adapt(n int64, held time.Duration) {
	switch {
	case p.target == 0:
	case held > p.target:
		fit := int64(float64(n) * float64(p.target) / float64(held))
		floor := p.climb.late(n, held, p.least, p.largest)
		p.size = p.clamp(max(fit, floor))
	default:
		// The target can be met.
		p.climb = climb{}
		if held < p.target/2 && n == p.size {
			p.size = p.clamp(2 * p.size)
		}
	}
}

const (
	// samples is how many zones of one size are measured. The shortest hold counts, since
	// anything unusual only makes a hold longer.
	samples = 4
	// outdated is the number of zones after which everything is measured again.
	outdated = 256
)

// climb is what is known while no zone is held as briefly as it should be.
type climb struct {
	floor    int64         // zones are no smaller; 0 for the smallest
	shortest time.Duration // hold of a zone of that size
	seen     int           // zones of that size
	base     time.Duration // shortest hold of a smallest zone; 0 until known
	top      bool          // larger ones are held too long, or there are none
	zones    int           // of any size
}

// late learns from a zone of n bytes that was held too long, and returns the smallest
// size that the next one may have.
func (c *climb) late(n int64, held time.Duration, least, largest int64) (floor int64) {
	if c.zones++; c.zones > outdated || held < c.base {
		*c = climb{} // the system is less busy than it was, or may be
	}
	if c.top || n != max(c.floor, least) {
		return c.floor
	}
	if c.seen == 0 || held < c.shortest {
		c.shortest = held
	}
	if c.seen++; c.seen < samples {
		return c.floor
	}
	if c.base == 0 {
		c.base = c.shortest
	}
	switch {
	case c.shortest > 2*c.base:
		c.floor, c.top = max(n/2, least), true
	case n == largest:
		c.top = true
	default:
		c.floor, c.seen = min(2*n, largest), 0
	}
	return c.floor
}
