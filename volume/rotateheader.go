// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imxcrypt/caam"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/reencrypt"
)

// RequirementRotate is the mandatory requirement of a header while a rotation is
// under way: whoever does not know it would take the data for that of one key.
const RequirementRotate = "imxcrypt-rotate-v1"

// nextID is the number of the new key's segment, token and digest. Both
// segments stand in the header as they are when all data is on their side; how
// far the data has moved is in the rotation's record alone. So the header is
// written at the beginning and at the end only.
const nextID = "1"

// flagNext marks the new segment: LUKS2 lets such a one lie over another.
const flagNext = "backup-final"

// The keyslots area, from the header's start: the check areas, a block for the
// record of an erase, the two record slots of a rotation, and the journal up to
// the area's end.
const (
	rotationRecordOffset  = eraseRecordOffset + blockAlign
	rotationJournalOffset = rotationRecordOffset + reencrypt.RecordArea
)

// maxZone caps a zone in bytes, however large the gap: it is held while it moves.
const maxZone = 16 * mib

// checkRotation judges the two keys of a header against each other.
func (h *header) checkRotation() error {
	n := h.next
	switch {
	case n.token.Generation != h.token.Generation+1:
		return fmt.Errorf("a rotation from generation %d to %d", h.token.Generation, n.token.Generation)
	case n.token.Source != h.token.Source:
		return fmt.Errorf("a rotation from source %q to %q", h.token.Source, n.token.Source)
	case n.segment.Size != h.segment.Size || !n.check.Derived && n.segment.Offset < h.luks.Area() || n.check.Derived && n.segment.Offset != h.segment.Offset:
		return fmt.Errorf("a rotation from %d bytes at %d to %d at %d",
			h.segment.Size, h.segment.Offset, n.segment.Size, n.segment.Offset)
	case !slices.Equal(n.segment.Flags, []string{flagNext}):
		return errors.New("the new segment is not marked " + flagNext)
	case n.check.Size == 0 || h.check.Size == 0 || n.check.Derived != h.check.Derived:
		return errors.New("a rotation without a check of each key")
	case n.check.Offset == h.check.Offset:
		return errors.New("both keys have the same check area")
	}
	return nil
}

// planRotation chooses where the data goes. Its error is a
// *reencrypt.LayoutError, or of code device-unsuitable.
func (h *header) planRotation(s Spec, c *container) (reencrypt.Layout, error) {
	area := h.luks.Area()
	if size := c.header.Size(); size < area {
		return reencrypt.Layout{}, refuse(fault.HeaderInvalid, "%s has %d of the %d bytes of its header area", c.header.Path(), size, area)
	}
	if area < rotationJournalOffset {
		return reencrypt.Layout{}, refuse(fault.DeviceUnsuitable, "the header area of %d bytes has no room for the records of a rotation, which end at %d", area, rotationJournalOffset)
	}
	start, end := h.dataRange(c)
	return reencrypt.Plan(reencrypt.Placement{
		Start: start, End: end, Offset: h.segment.Offset, Size: h.segment.Size,
		OldSector: h.segment.SectorSize, NewSector: s.SectorSize, LogicalBlock: c.data.LogicalBlockSize(),
		MaxZone: maxZone, RecordOffset: rotationRecordOffset,
		JournalOffset: rotationJournalOffset, JournalSize: area - rotationJournalOffset,
	})
}

// dataRange is what data and gap may take up of the device. Around the data of a
// detached header nothing is known to be free.
func (h *header) dataRange(c *container) (start, end int64) {
	if c.detached() {
		return h.segment.Offset, h.segment.Offset + h.segment.Size
	}
	return h.luks.Area(), c.data.Size()
}

// layout is that of the rotation under way, which the two segments tell.
func (h *header) layout(c *container) (reencrypt.Layout, error) {
	area := h.luks.Area()
	start, end := h.dataRange(c)
	l := reencrypt.Layout{
		Mode: reencrypt.Gap, Direction: reencrypt.Forward, DataSize: h.segment.Size,
		OldOffset: h.segment.Offset, NewOffset: h.next.segment.Offset,
		OldSector: h.segment.SectorSize, NewSector: h.next.segment.SectorSize,
		LogicalBlock: c.data.LogicalBlockSize(), Start: start, End: end,
		RecordOffset: rotationRecordOffset,
	}
	room := l.OldOffset - l.NewOffset
	switch {
	case room < 0:
		l.Direction, room = reencrypt.Backward, -room
	case room == 0:
		l.Mode, l.JournalOffset, l.JournalSize = reencrypt.Journal, rotationJournalOffset, area-rotationJournalOffset
		room = l.JournalSize
	}
	l.ZoneSize = min(room, maxZone) / blockAlign * blockAlign
	return l, l.Validate()
}

// rotationBinding ties the records to this volume and the new key's generation.
func (h *header) rotationBinding(generation int) (reencrypt.Binding, error) {
	b := reencrypt.Binding{Generation: uint64(generation)}
	raw, err := hex.DecodeString(strings.ReplaceAll(h.luks.UUID, "-", ""))
	if err != nil || copy(b.UUID[:], raw) != len(b.UUID) {
		return b, refuse(fault.HeaderInvalid, "uuid %q of the header is not valid", h.luks.UUID)
	}
	return b, nil
}

// rotationRecord reads how far the rotation under way is.
func (h *header) rotationRecord(c *container) (reencrypt.Record, error) {
	b, err := h.rotationBinding(h.next.token.Generation)
	if err != nil {
		return reencrypt.Record{}, err
	}
	return reencrypt.ReadRecord(c.header, rotationRecordOffset, b)
}

// beginRotation adds the new key to the header, in memory. The caller sets the
// check's digest.
func (h *header) beginRotation(t Token, cipher string, l reencrypt.Layout) *header {
	t.Phase, t.Filesystem = PhaseRotating, h.token.Filesystem
	n := &header{luks: h.luks, token: t, segment: luks2.Segment{
		Type: luks2.SegmentCrypt, Offset: l.NewOffset, Size: l.DataSize,
		Encryption: cipher, SectorSize: l.NewSector, Flags: []string{flagNext},
	}}
	n.check.Offset, n.check.Size, n.check.Derived = checkOffset(t.Generation), checkAreaSize, h.check.Derived
	h.next = n
	return n
}

// endRotation makes the new key the only one, in memory.
func (h *header) endRotation() *header {
	n := *h.next
	n.copies, n.token.Phase, n.segment.Flags = h.copies, PhaseReady, nil
	n.forgetDerived()
	return &n
}

// forgetDerived makes the filesystem the check again, in memory.
func (h *header) forgetDerived() {
	if h.check.Derived {
		h.check = Check{}
	}
}

// keyRequestNext asks for the key that follows h's.
func (h *header) keyRequestNext(s Spec) keyRequest {
	r := keyRequest{uuid: h.luks.UUID, generation: h.token.Generation + 1, keySize: s.KeySize}
	if s.Source == SourceCAAM {
		r.wrap = caam.Wrap(s.Wrap)
	}
	return r
}
