// SPDX-License-Identifier: Apache-2.0

package reencrypt

import "time"

// smallestZone is the least that a zone shrinks to: below it the flushes cost
// more than the copying, and holding gets no shorter.
const smallestZone = 64 << 10

// pace chooses the size of the zones so that none is held longer than target, as
// far as their size can help that: a part of each hold, flushing and changing
// tables, is the same for all sizes, and on a busy or slow system longer than the
// target. Zones are not made so small that it is more than half of the hold.
type pace struct {
	size           int64 // of the next zone
	least, largest int64
	align          int64
	target         time.Duration // 0: always the largest
	cost           cost
}

func newPace(l Layout, target time.Duration, live bool) pace {
	p := pace{largest: l.ZoneSize, align: l.align()}
	p.least = min(max(smallestZone, p.align), p.largest)
	p.size = p.largest
	if live && target > 0 {
		// A device of unknown speed is approached from below.
		p.target, p.size = target, p.clamp(p.largest/4)
	}
	return p
}

func (p *pace) clamp(n int64) int64 {
	return min(max(roundDown(n, p.align), p.least), p.largest)
}

// resume goes on with the size an earlier run had found.
func (p *pace) resume(zone int64) {
	if p.target > 0 && zone > 0 {
		p.size = p.clamp(zone)
	}
}

// took learns from a zone of n bytes: too long a hold is corrected at once, a
// short one doubled.
func (p *pace) took(n int64, held time.Duration) {
	if p.target == 0 {
		return
	}
	p.cost.learn(n, held)
	switch {
	case held > p.target:
		fit := int64(float64(n) * float64(p.target) / float64(held))
		p.size = p.clamp(max(fit, min(p.cost.worthwhile(p.largest), 2*p.size)))
	case held < p.target/2 && n == p.size:
		p.size = p.clamp(2 * p.size)
	}
}

// cost is what a hold is made of, a fixed part and one for each byte, as the line
// that fits the latest zones best: sums over them, of which each weighs a fifth
// less than the next.
type cost struct{ zones, bytes, ns, squares, products float64 }

const (
	// forget is what is left of a zone's weight when another one follows.
	forget = 0.8
	// spread is how much the sizes must differ, as their variance over the square
	// of their mean, for a line through them to tell anything.
	spread = 0.05
)

func (c *cost) learn(n int64, held time.Duration) {
	x, y := float64(n), float64(held)
	c.zones = forget*c.zones + 1
	c.bytes = forget*c.bytes + x
	c.ns = forget*c.ns + y
	c.squares = forget*c.squares + x*x
	c.products = forget*c.products + x*y
}

// worthwhile is the size in bytes from which copying takes as long as all else:
// smaller zones are held hardly shorter, and take as much longer altogether. It is
// 0 where that is not known, and largest at most.
func (c *cost) worthwhile(largest int64) int64 {
	variance := c.zones*c.squares - c.bytes*c.bytes
	if variance <= spread*c.bytes*c.bytes {
		return 0
	}
	each := (c.zones*c.products - c.bytes*c.ns) / variance
	fixed := (c.ns - each*c.bytes) / c.zones
	switch {
	case fixed <= 0:
		return 0
	case each <= 0 || fixed/each > float64(largest):
		return largest
	}
	return int64(fixed / each)
}
