// SPDX-License-Identifier: Apache-2.0

package reencrypt

// Placement describes a volume before a rotation: where its data is and what is free. All
// sizes and offsets are in bytes.
type Placement struct {
	// Start and End bound what data and gap may occupy on the data device.
	Start, End int64
	// Offset and Size are those of the data.
	Offset, Size int64
	// OldSector and NewSector are the crypt sector sizes, LogicalBlock is the device's.
	OldSector, NewSector, LogicalBlock int
	// MaxZone limits the zone size; if it is 0, only the gap or journal does.
	MaxZone int64
	// RecordOffset, JournalOffset and JournalSize refer to the header area. The journal
	// may be missing (size 0) if there is a gap.
	RecordOffset, JournalOffset, JournalSize int64
}

// Plan chooses how a volume is rotated: into the larger gap beside the data if there is
// one, otherwise in place. The data moves by the whole gap, so that the next rotation
// finds the same gap on the other side. Its error is a [*LayoutError].
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

// Resume returns the layout of the rotation that r belongs to, on the device as it is
// now. Start, End, LogicalBlock, MaxZone, RecordOffset and JournalSize come from p. The
// rest comes from the record, since the header may say something else by now. Its error
// is a [*LayoutError].
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

// zone returns the longest zone that room and MaxZone allow, but at least one block.
// Validate refuses the layout if even one block is too long.
func (p Placement) zone(room, block int64) int64 {
	if p.MaxZone > 0 {
		room = min(room, p.MaxZone)
	}
	return max(roundDown(room, block), block)
}

// checkSizes checks what Plan relies on before it computes anything.
func (l Layout) checkSizes() error {
	l.ZoneSize = l.align()
	if err := l.checkBlocks(); err != nil {
		return err
	}
	return l.checkPlaces()
}

// roundDown returns the largest multiple of a, a power of two, that is not above v, or 0
// if v is negative.
func roundDown(v, a int64) int64 {
	if v < 0 {
		return 0
	}
	return v &^ (a - 1)
}
