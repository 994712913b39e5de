// SPDX-License-Identifier: Apache-2.0

package reencrypt

// Placement is what is known of a volume before a rotation: where its data
// lies and what is free. All sizes and offsets are in bytes.
type Placement struct {
	// Start and End bound what data and gap may occupy on the data device.
	Start, End int64
	// Offset and Size are the data's.
	Offset, Size int64
	// OldSector and NewSector are the crypt sectors, LogicalBlock the device's.
	OldSector, NewSector, LogicalBlock int
	// MaxZone caps the zone; 0 leaves it at the gap or journal.
	MaxZone int64
	// RecordOffset, JournalOffset and JournalSize lie in the header area. The
	// journal may be missing (size 0) where there is a gap.
	RecordOffset, JournalOffset, JournalSize int64
}

// Plan chooses how a volume is rotated: into the larger gap beside the data
// where there is one, else in place. The data moves by the whole gap, so that
// the next rotation finds the same gap on the other side. Its error is a
// [*LayoutError].
func Plan(p Placement) (Layout, error) {
	l := Layout{
		Mode: Gap, Direction: Forward, DataSize: p.Size,
		OldOffset: p.Offset, NewOffset: p.Offset, OldSector: p.OldSector, NewSector: p.NewSector,
		LogicalBlock: p.LogicalBlock, Start: p.Start, End: p.End, RecordOffset: p.RecordOffset,
	}
	if err := l.checkSizes(); err != nil {
		return Layout{}, err
	}
	a := l.align()
	before := roundDown(p.Offset-p.Start, a)
	after := roundDown(p.End-p.Offset-p.Size, a)
	room := p.JournalSize
	switch {
	case before >= after && before > 0:
		l.NewOffset -= before
		room = before
	case after > 0:
		l.NewOffset += after
		l.Direction = Backward
		room = after
	default:
		l.Mode = Journal
		l.JournalOffset, l.JournalSize = p.JournalOffset, p.JournalSize
		if p.JournalSize < a {
			return Layout{}, wrong("journal size", "%d is less than one block of %d, and there is no gap", p.JournalSize, a)
		}
	}
	l.ZoneSize = p.zone(room, a)
	return l, l.Validate()
}

// Resume is the layout of the rotation that r belongs to, on the device as it
// is now: Start, End, LogicalBlock, MaxZone, RecordOffset and JournalSize are
// taken from p, the rest, which a header may say otherwise by now, from the
// record. Its error is a [*LayoutError].
func Resume(r Record, p Placement) (Layout, error) {
	l := r.layout()
	l.LogicalBlock, l.Start, l.End, l.RecordOffset = p.LogicalBlock, p.Start, p.End, p.RecordOffset
	room := l.shift()
	if l.Mode == Journal {
		l.JournalSize = p.JournalSize
		room = p.JournalSize
	}
	l.ZoneSize = l.align()
	if err := l.checkBlocks(); err != nil {
		return Layout{}, err
	}
	l.ZoneSize = p.zone(room, l.align())
	return l, l.Validate()
}

// zone is the longest zone that room and cap allow: at least one block, which
// Validate refuses where even that is too long.
func (p Placement) zone(room, block int64) int64 {
	if p.MaxZone > 0 {
		room = min(room, p.MaxZone)
	}
	return max(roundDown(room, block), block)
}

// checkSizes is what Plan needs to know before it computes anything.
func (l Layout) checkSizes() error {
	l.ZoneSize = l.align()
	if err := l.checkBlocks(); err != nil {
		return err
	}
	return l.checkPlaces()
}

// roundDown is the largest multiple of a, a power of two, that is not above v;
// 0 for negative ones.
func roundDown(v, a int64) int64 {
	if v < 0 {
		return 0
	}
	return v &^ (a - 1)
}
