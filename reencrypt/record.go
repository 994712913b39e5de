// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"

	"imxcrypt/internal/blank"
)

// The record on storage, big-endian like the LUKS2 binary header:
//
//	 0  magic "IMXROTAT"          64  old offset
//	 8  u32 version 1             72  new offset
//	12  u8 mode                   80  position
//	13  u8 direction              88  zone
//	14  u8 phase                  96  u32 old sector
//	15  u8 zero                  100  u32 new sector
//	16  sequence                 104  journal offset
//	24  UUID, 16 bytes           112  journal digest, 32 bytes
//	40  generation               144  place in the journal
//	48  zones moved              152  size of the ring
//	56  data size                160  zeros
//	                             480  SHA-256 of bytes 0 to 480
//	                             512  seven more copies, to 4096
const (
	recordMagic   = "IMXROTAT"
	recordVersion = 1
	recordSize    = 512
	recordBody    = recordSize - sha256.Size
	recordUsed    = 160
	recordCopies  = slotSize / recordSize

	slotSize = 4096
	// RecordArea is the number of bytes that the records take in the header area.
	RecordArea = 2 * slotSize
)

// Phase says what state the zone at the record's position is in.
type Phase uint8

const (
	// Moving: the zone at the position is whole on the old side.
	Moving Phase = iota + 1
	// Journaled: the zone may be half overwritten; the journal has its old ciphertext.
	Journaled
	// Finished: there is no such zone, everything is on the new side.
	Finished
)

func (p Phase) String() string {
	switch p {
	case Moving:
		return "moving"
	case Journaled:
		return "journaled"
	case Finished:
		return "finished"
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// Binding ties records to one rotation of one volume, so that records of an earlier
// rotation, left in the same place, are not mistaken for it.
type Binding struct {
	UUID       [16]byte // the LUKS2 header's
	Generation uint64   // of the new key
}

// Record says how far a rotation is. It is comparable.
type Record struct {
	Binding
	Sequence  uint64
	Mode      Mode
	Direction Direction
	Phase     Phase
	// DataSize, OldOffset and NewOffset are in bytes, as in [Layout].
	DataSize, OldOffset, NewOffset int64
	OldSector, NewSector           int
	JournalOffset                  int64
	// Position is the boundary between old and new, in bytes of the volume. In direction
	// Forward everything below it is new, in direction Backward everything from it on.
	Position int64
	// Zone is the length of the journaled zone at Position. In the other phases it is the
	// length of the last zone moved, or 0 if none was.
	Zone int64
	// Zones counts the zones moved so far.
	Zones uint64
	// Digest is the digest of the journaled zone's old ciphertext: the SHA-256 of the
	// CRC-32C (big-endian) of each of its 512-byte sectors. It is zero in the other
	// phases.
	Digest [sha256.Size]byte
	// JournalAt is where that ciphertext begins in the journal, in bytes from
	// JournalOffset. It is zero in the other phases.
	JournalAt int64
	// RingSize is the size of the ring: a zone that reaches this offset continues at
	// JournalOffset. It is zero for a zone that is moved by itself, and in the other
	// phases.
	RingSize int64
}

// layout returns the recorded part of the geometry.
func (r Record) layout() Layout {
	return Layout{
		Mode: r.Mode, Direction: r.Direction, DataSize: r.DataSize, OldOffset: r.OldOffset, NewOffset: r.NewOffset,
		OldSector: r.OldSector, NewSector: r.NewSector, JournalOffset: r.JournalOffset,
	}
}

// fits compares the record with the geometry that the caller computed.
func (r Record) fits(l Layout) error {
	for _, c := range []struct {
		field          string
		record, layout int64
	}{
		{"mode", int64(r.Mode), int64(l.Mode)},
		{"direction", int64(r.Direction), int64(l.Direction)},
		{"data size", r.DataSize, l.DataSize},
		{"old offset", r.OldOffset, l.OldOffset},
		{"new offset", r.NewOffset, l.NewOffset},
		{"old sector size", int64(r.OldSector), int64(l.OldSector)},
		{"new sector size", int64(r.NewSector), int64(l.NewSector)},
		{"journal offset", r.JournalOffset, l.JournalOffset},
		// The logical block may have grown since the position was recorded.
		{"position within a block", r.Position % l.align(), 0},
	} {
		if c.record != c.layout {
			return &MismatchError{Field: c.field, Record: c.record, Layout: c.layout}
		}
	}
	// The journal may have become smaller than what is written.
	if r.Phase == Journaled && r.journalEnd() > l.JournalSize {
		return &MismatchError{Field: "journal size", Record: r.journalEnd(), Layout: l.JournalSize}
	}
	return nil
}

// journalEnd returns how much of the journal, at most, the record may need.
func (r Record) journalEnd() int64 {
	if r.RingSize > 0 {
		return r.RingSize
	}
	return r.JournalAt + r.Zone
}

// marshal fills the slot with every copy of the record.
func (r Record) marshal(slot []byte) {
	b := slot[:recordSize]
	clear(b)
	copy(b, recordMagic)
	be := binary.BigEndian
	be.PutUint32(b[8:], recordVersion)
	b[12], b[13], b[14] = byte(r.Mode), byte(r.Direction), byte(r.Phase)
	be.PutUint64(b[16:], r.Sequence)
	copy(b[24:40], r.UUID[:])
	be.PutUint64(b[40:], r.Generation)
	be.PutUint64(b[48:], r.Zones)
	be.PutUint64(b[56:], uint64(r.DataSize))
	be.PutUint64(b[64:], uint64(r.OldOffset))
	be.PutUint64(b[72:], uint64(r.NewOffset))
	be.PutUint64(b[80:], uint64(r.Position))
	be.PutUint64(b[88:], uint64(r.Zone))
	be.PutUint32(b[96:], uint32(r.OldSector))
	be.PutUint32(b[100:], uint32(r.NewSector))
	be.PutUint64(b[104:], uint64(r.JournalOffset))
	copy(b[112:144], r.Digest[:])
	be.PutUint64(b[144:], uint64(r.JournalAt))
	be.PutUint64(b[152:], uint64(r.RingSize))
	sum := sha256.Sum256(b[:recordBody])
	copy(b[recordBody:], sum[:])
	for i := 1; i < recordCopies; i++ {
		copy(slot[i*recordSize:], b)
	}
}

// parseRecord reads one copy of a record and checks everything that can be checked
// without knowing the volume. A record returned with errNewerRecord has its binding and
// sequence set.
func parseRecord(b []byte) (Record, error) {
	if len(b) != recordSize {
		return Record{}, recordError("wrong length")
	}
	if blank.Erased(b) {
		return Record{}, errEmptySlot
	}
	if string(b[:8]) != recordMagic {
		return Record{}, recordError("no record")
	}
	if sum := sha256.Sum256(b[:recordBody]); !bytes.Equal(sum[:], b[recordBody:]) {
		return Record{}, recordError("checksum wrong")
	}
	be := binary.BigEndian
	// These fields are at the same place in every version.
	newer := Record{Sequence: be.Uint64(b[16:]), Binding: Binding{UUID: [16]byte(b[24:40]), Generation: be.Uint64(b[40:])}}
	if v := be.Uint32(b[8:]); v != recordVersion {
		return newer, fmt.Errorf("%w: record version %d", errNewerRecord, v)
	}
	if b[15] != 0 || !blank.Zero(b[recordUsed:recordBody]) {
		return newer, fmt.Errorf("%w: reserved bytes of the record are set", errNewerRecord)
	}
	r := Record{
		Binding: newer.Binding, Sequence: newer.Sequence, Mode: Mode(b[12]), Direction: Direction(b[13]), Phase: Phase(b[14]),
		OldSector: int(be.Uint32(b[96:]) & math.MaxInt32), NewSector: int(be.Uint32(b[100:]) & math.MaxInt32),
		Zones: be.Uint64(b[48:]),
	}
	copy(r.Digest[:], b[112:144])
	for _, f := range []struct {
		to *int64
		at int
	}{{&r.DataSize, 56}, {&r.OldOffset, 64}, {&r.NewOffset, 72}, {&r.Position, 80}, {&r.Zone, 88}, {&r.JournalOffset, 104}, {&r.JournalAt, 144}, {&r.RingSize, 152}} {
		v := be.Uint64(b[f.at:])
		if v > math.MaxInt64 {
			return Record{}, recordError(fmt.Sprintf("number at byte %d out of range", f.at))
		}
		*f.to = int64(v)
	}
	return r, r.check()
}

// check refuses what no engine writes, even if the checksum is right.
func (r Record) check() error {
	l := r.layout()
	l.LogicalBlock, l.Start, l.End = SectorSize, 0, math.MaxInt64
	l.ZoneSize = l.align()
	l.JournalSize = l.ZoneSize
	if r.Phase == Journaled {
		wraps := r.RingSize > 0
		if r.JournalAt > math.MaxInt64-r.Zone || r.JournalAt%l.align() != 0 || r.RingSize%l.align() != 0 ||
			wraps && (r.JournalAt >= r.RingSize || r.Zone > r.RingSize) {
			return recordError("place in the journal out of range")
		}
		l.JournalSize = r.journalEnd()
	}
	for _, check := range []func(Layout) error{Layout.checkBlocks, Layout.checkPlaces, Layout.checkMode} {
		if err := check(l); err != nil {
			return recordError(err.Error())
		}
	}
	zone := l.exactZone(r.Position, r.Zone)
	switch {
	case r.Sequence == 0:
		return recordError("sequence is zero")
	case r.Position > r.DataSize || r.Position%l.align() != 0 || r.Zone > r.DataSize || r.Zone%l.align() != 0:
		return recordError("position or zone out of range")
	case r.Phase == Journaled:
		if r.Mode != Journal || r.Zone == 0 || zone.Start < 0 || zone.End() > r.DataSize {
			return recordError("journaled zone out of range")
		}
		return nil
	case r != r.unjournaled():
		return recordError("digest or place without a journal")
	case r.Phase == Moving && r.Position != l.end(), r.Phase == Finished && r.Position == l.end():
		return nil
	}
	return recordError("phase does not fit the position")
}
