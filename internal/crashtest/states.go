// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"fmt"
	"iter"
	"math/rand/v2"
)

// Options bounds the enumeration. Zero values mean the defaults.
type Options struct {
	// Exhaustive is the number of pending writes, or sectors, up to which all their
	// subsets are tried. Default 10, which is up to 1024 states per epoch.
	Exhaustive int
	// Limit is how many states of one kind (for example, lost sectors) are tried in one
	// epoch. Default 512.
	Limit int
	// Random is how many random subsets are tried in one epoch. Default 32;
	// negative for none.
	Random int
	// Tear is what the storage writes as a whole, in bytes; a multiple of the
	// default, 512.
	Tear int64
	// Seed of all random choices.
	Seed uint64
	// Epochs, if set, chooses the epochs to try.
	Epochs func(epoch int) bool
}

func (o Options) withDefaults() Options {
	if o.Exhaustive == 0 {
		o.Exhaustive = 10
	}
	if o.Limit == 0 {
		o.Limit = 512
	}
	if o.Random == 0 {
		o.Random = 32
	}
	if o.Tear == 0 {
		o.Tear = sector
	}
	return o
}

// State is what one power cut leaves.
type State struct {
	// Epoch counts the cuts of the log from 0.
	Epoch int
	// Description says what is missing, for the message of a failing test.
	Description string

	epoch *epoch
	there []bool // of the epoch's units
}

// Loss says what a power cut took of the pending writes.
type Loss uint8

// Kinds of losses.
const (
	LostAll    Loss = iota // all of them, or none was pending
	LostWrites             // some, each as a whole
	Torn                   // at least one in part
	LostNone
)

func (l Loss) String() string {
	return [...]string{"everything lost", "writes lost", "torn", "nothing lost"}[l]
}

// Loss returns the kind of state. Writes through the cache, and those that changed
// nothing, do not count.
func (s *State) Loss() Loss {
	there, missing := false, false
	for _, span := range s.epoch.spans {
		some, all := false, true
		for i := span[0]; i < span[1]; i++ {
			if s.epoch.units[i].op.durable {
				some, all = false, true
				break
			}
			some, all = some || s.there[i], all && s.there[i]
		}
		switch {
		case some && !all:
			return Torn
		case some:
			there = true
		case !all:
			missing = true
		}
	}
	switch {
	case there && missing:
		return LostWrites
	case there:
		return LostNone
	}
	return LostAll
}

// Image returns a disk's content in that state: a new overlay at each call, which the
// caller may write to.
func (s *State) Image(d *Disk) *Image {
	im := s.epoch.durable[d].Overlay()
	units := s.epoch.units
	for i := 0; i < len(units); i++ {
		u := units[i]
		if !s.there[i] || u.op.Disk != d {
			continue
		}
		// Adjacent parts of the same write are written in one piece.
		for i+1 < len(units) && s.there[i+1] && units[i+1].op == u.op && units[i+1].off == u.off+u.length {
			i++
			u.length += units[i].length
		}
		if _, err := im.WriteAt(u.op.content(u.off, u.length), u.off); err != nil {
			panic(err) // the write was inside the disk when it was logged
		}
	}
	return im
}

func (s *State) String() string {
	return fmt.Sprintf("power lost in epoch %d (%s): %s", s.Epoch, s.epoch.before, s.Description)
}

// Count returns the number of states that [Recorder.States] yields.
func (r *Recorder) Count(o Options) int {
	n := 0
	for range r.States(o) {
		n++
	}
	return n
}

// States yields every state of the package's model for what was recorded so far. States
// and their images stay valid.
func (r *Recorder) States(o Options) iter.Seq[*State] {
	o = o.withDefaults()
	log := r.Log()
	return func(yield func(*State) bool) {
		durable := map[*Disk]*Image{}
		for _, d := range r.disks {
			durable[d] = d.base
		}
		var pending []Op
		n := 0
		for i := 0; i <= len(log); i++ {
			through := i < len(log) && log[i].through
			if i < len(log) && log[i].Kind != Flush {
				pending = append(pending, log[i])
				if !through {
					continue
				}
			}
			if o.Epochs == nil || o.Epochs(n) {
				before := "at the end"
				switch {
				case through:
					before = fmt.Sprintf("during operation %d, %v", i, log[i])
				case i < len(log):
					before = fmt.Sprintf("before operation %d, %v", i, log[i])
				}
				if !newEpoch(n, before, durable, pending, o.Tear).states(o, yield) {
					return
				}
			}
			n++
			switch {
			case through:
				pending[len(pending)-1].durable = true
			case i < len(log):
				durable, pending = flush(durable, pending, log[i])
			}
		}
	}
}

// flush makes the pending operations in a range durable and returns those that are still
// pending.
func flush(durable map[*Disk]*Image, pending []Op, by Op) (map[*Disk]*Image, []Op) {
	d := by.Disk
	next := map[*Disk]*Image{}
	for other, im := range durable {
		next[other] = im
	}
	next[d] = durable[d].Overlay()
	var rest []Op
	for _, op := range pending {
		if op.Disk != d || by.missed[op.number] || op.Off < by.Off || op.Off+op.Length > by.Off+by.Length {
			rest = append(rest, op)
			continue
		}
		if _, err := next[d].WriteAt(op.content(op.Off, op.Length), op.Off); err != nil {
			panic(err) // it was inside the disk when it was logged
		}
	}
	return next, rest
}

// unit is what is there or missing as a whole: the part of a write in one
// sector, or a piece of a discard.
type unit struct {
	op          *Op
	number      int // of the operation among the pending ones
	off, length int64
}

type epoch struct {
	number  int
	before  string // what would have come next
	durable map[*Disk]*Image
	ops     int
	units   []unit // in the order of the log
	spans   [][2]int
}

const (
	sector = 512 // bytes
	// discards may be huge; this many pieces are enough to tear them
	discardPieces = 8
)

func newEpoch(number int, before string, durable map[*Disk]*Image, pending []Op, sector int64) *epoch {
	e := &epoch{number: number, before: before, durable: durable, ops: len(pending)}
	type place struct {
		disk   *Disk
		sector int64
	}
	touched := map[place]int{}
	var all []unit
	for i := range pending {
		op := &pending[i]
		step := sector
		if op.Kind == Discard {
			step = max(sector, (op.Length/discardPieces+sector-1)/sector*sector)
		}
		for off := op.Off; off < op.Off+op.Length; {
			end := min((off/step+1)*step, op.Off+op.Length)
			all = append(all, unit{op: op, number: i, off: off, length: end - off})
			if op.Kind == Write {
				touched[place{op.Disk, off / sector}]++
			}
			off = end
		}
		if op.Kind == Discard {
			for s := op.Off / sector; s <= (op.Off+op.Length-1)/sector; s++ {
				touched[place{op.Disk, s}]++
			}
		}
	}
	e.spans = make([][2]int, len(pending))
	for _, u := range all {
		// A sector written once, with what it held already, makes no difference.
		if u.op.Kind == Write && touched[place{u.op.Disk, u.off / sector}] == 1 {
			old := make([]byte, u.length)
			if _, err := durable[u.op.Disk].ReadAt(old, u.off); err == nil && bytes.Equal(old, u.op.content(u.off, u.length)) {
				continue
			}
		}
		if e.spans[u.number][1] == 0 {
			e.spans[u.number][0] = len(e.units)
		}
		e.units = append(e.units, u)
		e.spans[u.number][1] = len(e.units)
	}
	return e
}

// collector yields states, none twice.
type collector struct {
	e     *epoch
	yield func(*State) bool
	seen  map[string]bool
	done  bool
}

// add tries the state with the units for which there returns true.
func (c *collector) add(description string, there func(i int) bool) {
	if c.done {
		return
	}
	key := make([]byte, (len(c.e.units)+7)/8)
	list := make([]bool, len(c.e.units))
	for i := range list {
		if there(i) || c.e.units[i].op.durable {
			list[i] = true
			key[i/8] |= 1 << (i % 8)
		}
	}
	if c.seen[string(key)] {
		return
	}
	c.seen[string(key)] = true
	if !c.yield(&State{Epoch: c.e.number, Description: description, epoch: c.e, there: list}) {
		c.done = true
	}
}

// states yields an epoch's states, and returns false if the caller wants no more.
func (e *epoch) states(o Options, yield func(*State) bool) bool {
	c := &collector{e: e, yield: yield, seen: map[string]bool{}}
	rng := rand.New(rand.NewPCG(o.Seed, uint64(e.number)))
	n := len(e.units)
	if n <= o.Exhaustive {
		for set := range 1 << n {
			c.add(fmt.Sprintf("subset %0*b of %d sectors", n, set, n), func(i int) bool { return set>>i&1 == 1 })
		}
		return !c.done
	}
	e.byWrite(c, o, rng)
	e.byTear(c, o, rng)
	for i := range choose(n, o.Limit, rng) {
		c.add(fmt.Sprintf("sector %d of %d lost", i, n), func(j int) bool { return j != i })
		c.add(fmt.Sprintf("only sector %d of %d there", i, n), func(j int) bool { return j == i })
	}
	for k := range max(o.Random, 0) {
		p := [...]float64{0.5, 0.1, 0.9}[k%3]
		list := make([]bool, n)
		for i := range list {
			list[i] = rng.Float64() < p
		}
		c.add(fmt.Sprintf("random subset %d, seed %d", k, o.Seed), func(i int) bool { return list[i] })
	}
	return !c.done
}

// byWrite loses whole operations.
func (e *epoch) byWrite(c *collector, o Options, rng *rand.Rand) {
	for k := range choose(e.ops+1, o.Limit, rng) {
		c.add(fmt.Sprintf("the first %d of %d writes there", k, e.ops), func(i int) bool { return e.units[i].number < k })
	}
	for k := range choose(e.ops, o.Limit, rng) {
		c.add(fmt.Sprintf("write %d of %d lost", k, e.ops), func(i int) bool { return e.units[i].number != k })
		c.add(fmt.Sprintf("only write %d of %d there", k, e.ops), func(i int) bool { return e.units[i].number == k })
	}
	if e.ops <= o.Exhaustive {
		for set := range 1 << e.ops {
			c.add(fmt.Sprintf("subset %0*b of %d writes", e.ops, set, e.ops), func(i int) bool { return set>>e.units[i].number&1 == 1 })
		}
	}
}

// byTear tears each operation at each sector.
func (e *epoch) byTear(c *collector, o Options, rng *rand.Rand) {
	type tear struct{ op, at int }
	var tears []tear
	for op, span := range e.spans {
		for at := span[0] + 1; at < span[1]; at++ {
			tears = append(tears, tear{op, at})
		}
	}
	for k := range choose(len(tears), o.Limit, rng) {
		t := tears[k]
		for _, later := range []bool{false, true} {
			for _, head := range []bool{true, false} {
				part := map[bool]string{true: "first", false: "last"}[head]
				behind := map[bool]string{true: "there", false: "lost"}[later]
				c.add(fmt.Sprintf("write %d torn at sector %d, %s part there, later writes %s", t.op, t.at-e.spans[t.op][0], part, behind),
					func(i int) bool {
						switch n := e.units[i].number; {
						case n < t.op:
							return true
						case n > t.op:
							return later
						}
						return (i < t.at) == head
					})
			}
		}
	}
}

// choose yields the numbers below n, or, if there are more than limit, both ends and a
// random choice between them.
func choose(n, limit int, rng *rand.Rand) iter.Seq[int] {
	return func(yield func(int) bool) {
		if n <= limit {
			for i := range n {
				if !yield(i) {
					return
				}
			}
			return
		}
		if !yield(0) || !yield(n-1) {
			return
		}
		for _, i := range rng.Perm(n - 2)[:max(limit-2, 0)] {
			if !yield(i + 1) {
				return
			}
		}
	}
}
