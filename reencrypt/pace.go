// SPDX-License-Identifier: Apache-2.0

package reencrypt

import "time"

// smallestZone is the least that a zone shrinks to: below it the flushes cost
// more than the copying, and holding gets no shorter.
const smallestZone = 64 << 10

// pace chooses the size of the zones so that none is held longer than target.
type pace struct {
	size           int64 // of the next zone
	least, largest int64
	align          int64
	target         time.Duration // 0: always the largest
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
	switch {
	case p.target == 0:
	case held > p.target:
		p.size = p.clamp(int64(float64(n) * float64(p.target) / float64(held)))
	case held < p.target/2 && n == p.size:
		p.size = p.clamp(2 * p.size)
	}
}
