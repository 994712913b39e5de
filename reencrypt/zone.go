// SPDX-License-Identifier: Apache-2.0

package reencrypt

import "fmt"

// View names one of the four things the engine reads and writes.
type View uint8

// The views. Old and New are also the two sides a piece of data can be on.
const (
	Old  View = iota + 1 // plaintext through the old mapping
	New                  // plaintext through the new mapping
	Raw                  // ciphertext, as it is on the data device
	Meta                 // the header area: records and journal
)

func (v View) String() string {
	switch v {
	case Old:
		return "old mapping"
	case New:
		return "new mapping"
	case Raw:
		return "data device"
	case Meta:
		return "header area"
	}
	return fmt.Sprintf("view %d", uint8(v))
}

// Zone is a range of plaintext that is moved in one go: bytes Start to Start+Length of
// the volume.
type Zone struct {
	Start, Length int64
}

// End returns the first byte after the zone.
func (z Zone) End() int64 { return z.Start + z.Length }

// Overlaps reports whether a request of n bytes at off touches the zone.
func (z Zone) Overlaps(off, n int64) bool { return off < z.End() && z.Start < off+n }

func (z Zone) String() string { return fmt.Sprintf("%d-%d", z.Start, z.End()) }

// Piece is one line of the table that shows the whole volume during a rotation.
type Piece struct {
	Start, Length int64 // bytes of the volume
	Side          View  // Old or New
	Offset        int64 // the byte of the data device where Start is
	// Hot marks the zone in transit: its requests are held. Side is then the side it will
	// have if nothing fails.
	Hot bool
}

// zoneAt returns the next zone at pos, of at most size bytes. Zones are blocks of size
// counted from the volume's start, in both directions, so that the short one is the last
// of the volume. Its length is 0 at the end.
func (l Layout) zoneAt(pos, size int64) Zone {
	if l.Direction == Backward {
		if pos <= 0 {
			return Zone{}
		}
		start := (pos - 1) / size * size
		return Zone{Start: start, Length: pos - start}
	}
	return Zone{Start: pos, Length: min(size-pos%size, l.DataSize-pos)}
}

// exactZone returns the zone of n bytes next to pos.
func (l Layout) exactZone(pos, n int64) Zone {
	if l.Direction == Backward {
		return Zone{Start: pos - n, Length: n}
	}
	return Zone{Start: pos, Length: n}
}

// between returns the zone between two counts of moved bytes.
func (l Layout) between(c span) Zone {
	from, to := l.position(c.from), l.position(c.to)
	return Zone{Start: min(from, to), Length: c.to - c.from}
}

// begin and end are the positions before the first and after the last zone.
func (l Layout) begin() int64 {
	if l.Direction == Backward {
		return l.DataSize
	}
	return 0
}

func (l Layout) end() int64 { return l.DataSize - l.begin() }

// after returns the position once z, the zone at the current position, is moved.
func (l Layout) after(z Zone) int64 {
	if l.Direction == Backward {
		return z.Start
	}
	return z.End()
}

// position returns where the boundary is once n bytes are moved: the inverse of done.
func (l Layout) position(n int64) int64 { return l.done(n) }

// done returns the number of bytes moved when the position is pos.
func (l Layout) done(pos int64) int64 {
	if l.Direction == Backward {
		return l.DataSize - pos
	}
	return pos
}

// Pieces returns the volume at position pos, in ascending order and without a hole: at
// most an old piece, the hot zone and a new piece. hot is the zone at pos while it is in
// transit, otherwise the zero Zone.
func (l Layout) Pieces(pos int64, hot Zone) []Piece {
	low, high := New, Old // forward: what is below the position is new
	from, to := pos, pos
	if l.Direction == Backward {
		low, high = Old, New
	}
	if hot.Length > 0 {
		from, to = hot.Start, hot.End()
	}
	pieces := make([]Piece, 0, 3)
	add := func(start, end int64, side View, hot bool) {
		if end > start {
			pieces = append(pieces, Piece{
				Start: start, Length: end - start, Side: side, Offset: l.offset(side) + start, Hot: hot,
			})
		}
	}
	add(0, from, low, false)
	add(from, to, New, true)
	add(to, l.DataSize, high, false)
	return pieces
}

// Pieces returns the volume as the record leaves it. A journaled zone is hot:
// [Engine.Recover] must settle it before anyone may use it.
func (r Record) Pieces() []Piece {
	l := r.layout()
	var hot Zone
	if r.Phase == Journaled {
		hot = l.exactZone(r.Position, r.Zone)
	}
	return l.Pieces(r.Position, hot)
}

// Done returns the number of bytes that are under the new key.
func (r Record) Done() int64 { return r.layout().done(r.Position) }

// Untouched reports whether all data is still whole and on the old side.
func (r Record) Untouched() bool { return r.Phase == Moving && r.Done() == 0 }
