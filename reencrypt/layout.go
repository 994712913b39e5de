// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"fmt"
	"math"
)

// SectorSize is the device-mapper sector in bytes, and the largest write that storage is
// trusted to do atomically.
const SectorSize = 512

// maxSector is dm-crypt's largest crypt sector.
const maxSector = 4096

// Mode is how a zone is protected while it is moved.
type Mode uint8

// The modes. Both work zone by zone: Gap copies into free space; Journal overwrites, with
// the old ciphertext kept in a journal.
const (
	Gap Mode = iota + 1
	Journal
)

func (m Mode) String() string {
	switch m {
	case Gap:
		return "gap"
	case Journal:
		return "journal"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Direction is the order in which zones are moved.
type Direction uint8

// The directions: Forward from the volume's start, Backward from its end.
const (
	Forward Direction = iota + 1
	Backward
)

func (d Direction) String() string {
	switch d {
	case Forward:
		return "forward"
	case Backward:
		return "backward"
	}
	return fmt.Sprintf("direction %d", uint8(d))
}

// Layout is the geometry of one rotation. All sizes and offsets are in bytes. The first
// eight fields are fixed from Begin to the end and are part of every record; the rest may
// differ from one run to the next.
type Layout struct {
	Mode      Mode
	Direction Direction
	// DataSize is the size of the plaintext, which a rotation does not change.
	DataSize int64
	// OldOffset and NewOffset are where the first byte of the data is on the data device
	// before and after. They are equal in mode Journal.
	OldOffset, NewOffset int64
	// OldSector and NewSector are the crypt sector sizes: 512, 1024, 2048 or 4096.
	OldSector, NewSector int
	// JournalOffset is where the journal begins in the header area (Journal).
	JournalOffset int64
	// LogicalBlock is the smallest block the devices accept, a power of two up to 4096.
	// It may grow when an image moves to another device; everything that is recorded is
	// then checked against it again.
	LogicalBlock int

	// Start and End bound the bytes of the data device that data and gap may
	// occupy; nothing outside is written.
	Start, End int64
	// ZoneSize is the longest zone: at most the gap, or the journal.
	ZoneSize int64
	// JournalSize is the room for the journal (Journal).
	JournalSize int64
	// RecordOffset is where the [RecordArea] bytes of records begin in the
	// header area.
	RecordOffset int64
}

// align returns what every zone boundary must be a multiple of.
func (l Layout) align() int64 { return int64(max(l.OldSector, l.NewSector, l.LogicalBlock)) }

// tornBlock is the physical block size of storage with logical sectors of 512 bytes.
// Writing one sector rewrites the block, and a power cut may then damage the block's
// other sectors too.
const tornBlock = 4096

// zoneAlign returns what positions are chosen to be multiples of. If zones are long
// enough, that includes tornBlock: a torn copy then damages nothing that is recorded as
// moved, if the data begins at a multiple of tornBlock.
func (l Layout) zoneAlign() int64 {
	if l.ZoneSize < 4*tornBlock {
		return l.align()
	}
	return max(l.align(), tornBlock)
}

func (l Layout) offset(side View) int64 {
	if side == New {
		return l.NewOffset
	}
	return l.OldOffset
}

// shift returns the distance the data moves.
func (l Layout) shift() int64 {
	if l.NewOffset > l.OldOffset {
		return l.NewOffset - l.OldOffset
	}
	return l.OldOffset - l.NewOffset
}

// Validate reports whether a rotation of this geometry is possible and safe. Its
// error is a [*LayoutError].
func (l Layout) Validate() error {
	for _, check := range []func(Layout) error{
		Layout.checkBlocks, Layout.checkPlaces, Layout.checkMode, Layout.checkRecords,
	} {
		if err := check(l); err != nil {
			return err
		}
	}
	return nil
}

func (l Layout) checkBlocks() error {
	for _, b := range []struct {
		field string
		size  int
	}{{"old sector size", l.OldSector}, {"new sector size", l.NewSector}, {"logical block", l.LogicalBlock}} {
		if b.size < SectorSize || b.size > maxSector || b.size&(b.size-1) != 0 {
			return wrong(b.field, "%d is not 512, 1024, 2048 or 4096", b.size)
		}
	}
	if l.DataSize <= 0 {
		return wrong("data size", "%d is not positive", l.DataSize)
	}
	if l.ZoneSize <= 0 {
		return wrong("zone size", "%d is not positive", l.ZoneSize)
	}
	// A zone boundary inside a crypt sector of either side would split it
	// between two keys.
	if err := multiple("data size", l.DataSize, l.align()); err != nil {
		return err
	}
	return multiple("zone size", l.ZoneSize, l.align())
}

func (l Layout) checkPlaces() error {
	if l.Start < 0 || l.End <= l.Start {
		return wrong("range", "%d to %d is empty or negative", l.Start, l.End)
	}
	for _, p := range []struct {
		field  string
		offset int64
		sector int
	}{{"old offset", l.OldOffset, l.OldSector}, {"new offset", l.NewOffset, l.NewSector}} {
		if err := multiple(p.field, p.offset, int64(max(p.sector, l.LogicalBlock))); err != nil {
			return err
		}
		if p.offset < l.Start || p.offset > l.End || l.End-p.offset < l.DataSize {
			return wrong(p.field, "%d with %d bytes of data leaves the range %d to %d", p.offset, l.DataSize, l.Start, l.End)
		}
	}
	return nil
}

func (l Layout) checkMode() error {
	if l.Direction != Forward && l.Direction != Backward {
		return wrong("direction", "%d is unknown", uint8(l.Direction))
	}
	switch l.Mode {
	case Gap:
		if l.shift() == 0 {
			return wrong("new offset", "%d is the old one: there is no gap", l.NewOffset)
		}
		// In the other direction the copy would run into data that has not moved yet.
		if down := l.NewOffset < l.OldOffset; down != (l.Direction == Forward) {
			return wrong("direction", "%s does not fit a move from %d to %d", l.Direction, l.OldOffset, l.NewOffset)
		}
		if l.ZoneSize > l.shift() {
			return wrong("zone size", "%d is larger than the gap of %d", l.ZoneSize, l.shift())
		}
	case Journal:
		if l.shift() != 0 {
			return wrong("new offset", "%d is not the old one, %d", l.NewOffset, l.OldOffset)
		}
		if l.ZoneSize > l.JournalSize {
			return wrong("zone size", "%d is larger than the journal of %d", l.ZoneSize, l.JournalSize)
		}
		if l.JournalOffset < 0 || l.JournalOffset > math.MaxInt64-l.JournalSize {
			return wrong("journal offset", "%d is out of range", l.JournalOffset)
		}
		return multiple("journal offset", l.JournalOffset, l.align())
	default:
		return wrong("mode", "%d is unknown", uint8(l.Mode))
	}
	return nil
}

func (l Layout) checkRecords() error {
	if l.RecordOffset < 0 || l.RecordOffset > math.MaxInt64-RecordArea {
		return wrong("record offset", "%d is out of range", l.RecordOffset)
	}
	if err := multiple("record offset", l.RecordOffset, int64(l.LogicalBlock)); err != nil {
		return err
	}
	if l.Mode == Journal &&
		l.RecordOffset < l.JournalOffset+l.JournalSize && l.JournalOffset < l.RecordOffset+RecordArea {
		return wrong("record offset", "%d lies in the journal", l.RecordOffset)
	}
	return nil
}

func multiple(field string, v, of int64) error {
	if v < 0 || v%of != 0 {
		return wrong(field, "%d is not a multiple of %d", v, of)
	}
	return nil
}

func wrong(field, format string, args ...any) error {
	return &LayoutError{Field: field, Reason: fmt.Sprintf(format, args...)}
}
