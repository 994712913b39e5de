// SPDX-License-Identifier: Apache-2.0

package header

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/luks2"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/spec"
)

// RequirementRotate is the mandatory requirement of a header while a rotation is under
// way: a program that does not know it would assume that all data is under one key.
const RequirementRotate = "imxcrypt-rotate-v1"

// RequirementRotateSource is added to it while the two keys come from different sources,
// so that programs that know only one source per volume refuse the header by name.
const RequirementRotateSource = "imxcrypt-rotate-source-v1"

// nextID is the number of the new key's segment, token and digest. The header holds both
// segments as they are when all data is on their side; how far the data has moved is only
// in the rotation's record. So the header is written only at the beginning and at the
// end.
const nextID = "1"

// flagNext marks the new segment: LUKS2 lets such a segment overlap another.
const flagNext = "backup-final"

// The keyslots area, from the header's start: the check areas, a block for the record of
// an erase, the two record slots of a rotation, and the journal up to the end of the
// area.
const (
	RotationRecordOffset  = EraseRecordOffset + BlockAlign
	RotationJournalOffset = RotationRecordOffset + reencrypt.RecordArea
)

// MaxZone limits a zone in bytes, however large the gap is: a zone is held while it
// moves.
const MaxZone = 16 * MiB

// checkRotation compares the two keys of a header.
func (h *Header) checkRotation() error {
	n := h.Next
	switch {
	case n.Token.Generation != h.Token.Generation+1:
		return fmt.Errorf("a rotation from generation %d to %d", h.Token.Generation, n.Token.Generation)
	case !mayBecome(h.Token.Source, n.Token.Source):
		return fmt.Errorf("a rotation from source %q to %q", h.Token.Source, n.Token.Source)
	case h.LUKS.Requires(RequirementRotateSource) != h.otherSource():
		return fmt.Errorf("a rotation from source %q to %q, and the requirement %s does not fit", h.Token.Source, n.Token.Source, RequirementRotateSource)
	case n.Segment.Size != h.Segment.Size || !n.Check.Derived && n.Segment.Offset < h.LUKS.Area() || n.Check.Derived && n.Segment.Offset != h.Segment.Offset:
		return fmt.Errorf("a rotation from %d bytes at %d to %d at %d",
			h.Segment.Size, h.Segment.Offset, n.Segment.Size, n.Segment.Offset)
	case !slices.Equal(n.Segment.Flags, []string{flagNext}):
		return errors.New("the new segment is not marked " + flagNext)
	case n.Check.Size == 0 || h.Check.Size == 0 || n.Check.Derived != h.Check.Derived:
		return errors.New("a rotation without a check of each key")
	case n.Check.Offset == h.Check.Offset:
		return errors.New("both keys have the same check area")
	}
	return nil
}

// mayBecome reports whether a rotation may take a volume from one source to another. It
// may never take it to source dev, which protects nothing.
func mayBecome(from, to string) bool { return to != spec.SourceDev || from == spec.SourceDev }

// otherSource reports whether the rotation under way takes the volume to another source
// or trust source.
func (h *Header) otherSource() bool {
	return h.Next.Token.Source != h.Token.Source || h.Next.Token.Trust() != h.Token.Trust()
}

// PlanRotation chooses where the data goes. Its error is a *reencrypt.LayoutError, or of
// code device-unsuitable.
func (h *Header) PlanRotation(s spec.Volume, c *Storage) (reencrypt.Layout, error) {
	area := h.LUKS.Area()
	if size := c.Header.Size(); size < area {
		return reencrypt.Layout{}, fault.Newf(fault.HeaderInvalid, "%s has %d of the %d bytes of its header area", c.Header.Path(), size, area)
	}
	if area < RotationJournalOffset {
		return reencrypt.Layout{}, fault.Newf(fault.DeviceUnsuitable, "the header area of %d bytes has no room for the records of a rotation, which end at %d", area, RotationJournalOffset)
	}
	start, end := h.dataRange(c)
	end = min(end, h.plannedEnd(s, c))
	return reencrypt.Plan(reencrypt.Placement{
		Start: start, End: end, Offset: h.Segment.Offset, Size: h.Segment.Size,
		OldSector: h.Segment.SectorSize, NewSector: s.SectorSize, LogicalBlock: c.Data.LogicalBlockSize(),
		MaxZone: MaxZone, RecordOffset: RotationRecordOffset,
		JournalOffset: RotationJournalOffset, JournalSize: area - RotationJournalOffset,
	})
}

// dataRange returns the part of the device that data and gap may occupy. Around the data
// of a detached header nothing is known to be free.
func (h *Header) dataRange(c *Storage) (start, end int64) {
	switch {
	case h.moved() > 0:
		return 0, h.moved()
	case c.Detached():
		return h.Segment.Offset, h.Segment.Offset + h.Segment.Size
	}
	return h.LUKS.Area(), c.Data.Size()
}

// plannedEnd returns where data and gap end by the layout that the volume was made with.
// The gap is in front of the data, or behind it if a rotation has moved the data to the
// front. What a partition has grown by does not belong to the volume.
func (h *Header) plannedEnd(s spec.Volume, c *Storage) int64 {
	end := h.Segment.Offset + h.Segment.Size
	if c.Detached() || h.Segment.Offset > h.LUKS.Area() {
		return end
	}
	l, err := PlanLayout(s, DeviceFacts{Path: c.Data.Path(), Size: c.Data.Size(), EraseSize: c.Data.PreferredEraseSize()})
	if err != nil {
		return end
	}
	return end + l.Gap()
}

// UnusedSpace returns how many bytes a device has grown by since the volume was made; 0 if
// that is less than 1 MiB, or unknown. What encrypting in place leaves at the end does
// not count.
func (h *Header) UnusedSpace(s spec.Volume, c *Storage) int64 {
	if h.Next != nil || c.Detached() && h.Token.Filesystem.UUID != h.FilesystemUUID(h.Token.Filesystem.Type) {
		return 0
	}
	n := c.Data.Size() - h.plannedEnd(s, c)
	if n >= MiB && (c.Detached() || n >= MiB+h.LUKS.Area()+2*BlockAlign) {
		return n
	}
	return 0
}

// Layout returns the layout of the rotation under way, as the two segments define it.
func (h *Header) Layout(c *Storage) (reencrypt.Layout, error) {
	area := h.LUKS.Area()
	start, end := h.dataRange(c)
	l := reencrypt.Layout{
		Mode: reencrypt.Gap, Direction: reencrypt.Forward, DataSize: h.Segment.Size,
		OldOffset: h.Segment.Offset, NewOffset: h.Next.Segment.Offset,
		OldSector: h.sector(), NewSector: h.Next.sector(),
		LogicalBlock: c.Data.LogicalBlockSize(), Start: start, End: end,
		RecordOffset: RotationRecordOffset,
	}
	room := l.OldOffset - l.NewOffset
	switch {
	case room < 0:
		l.Direction, room = reencrypt.Backward, -room
	case room == 0:
		l.Mode, l.JournalOffset, l.JournalSize = reencrypt.Journal, RotationJournalOffset, area-RotationJournalOffset
		room = l.JournalSize
	}
	if h.Decrypting() && l.Mode == reencrypt.Journal {
		// The filesystem's start comes last: a volume half in plaintext then shows no
		// filesystem that someone might mount.
		l.Direction = reencrypt.Backward
	}
	l.ZoneSize = min(room, MaxZone) / BlockAlign * BlockAlign
	return l, l.Validate()
}

// RotationRecord reads how far the rotation under way is.
func (h *Header) RotationRecord(c *Storage) (reencrypt.Record, error) {
	b, err := h.RotationBinding(h.Next.Token.Generation)
	if err != nil {
		return reencrypt.Record{}, err
	}
	return reencrypt.ReadRecord(c.Header, RotationRecordOffset, b)
}

// BeginRotation adds the new key to the header, in memory. The caller sets the
// check's digest.
func (h *Header) BeginRotation(t Token, cipher string, l reencrypt.Layout) *Header {
	t.Phase, t.Filesystem = PhaseRotating, h.Token.Filesystem
	n := &Header{LUKS: h.LUKS, Token: t, Segment: luks2.Segment{
		Type: luks2.SegmentCrypt, Offset: l.NewOffset, Size: l.DataSize,
		Encryption: cipher, SectorSize: l.NewSector, Flags: []string{flagNext},
	}}
	n.Check.Offset, n.Check.Size, n.Check.Derived = h.FreeCheckArea(), CheckAreaSize, h.Check.Derived
	h.Next = n
	return n
}

// EndRotation makes the new key the only one, in memory.
func (h *Header) EndRotation() *Header {
	n := *h.Next
	n.plaintext, n.boundMoved = "", 0
	n.Copies, n.Token.Phase, n.Segment.Flags = h.Copies, PhaseReady, nil
	return &n
}

// SpecAsStored returns the configuration with the members that a rotation can change set as
// in the header: source, protected, wrap, key size, cipher and sector size. A cipher that
// is not used with keys of the source stays as configured, and so does everything else,
// so that it cannot be chosen by writing it into a header. Source dev still requires a
// configuration that allows it.
func (h *Header) SpecAsStored(s spec.Volume) spec.Volume {
	if s.Source == spec.SourceAuto && !spec.Sealed(h.Token.Source) {
		return s
	}
	if !mayBecome(h.Token.Source, s.Source) || !slices.Contains(keysource.CipherNames(h.Token.Keys()), h.Segment.Encryption) {
		return s
	}
	s.Source, s.Trusted.Source, s.Protected, s.Wrap = h.Token.Source, h.Token.Trust(), h.Token.Protected(), string(h.Token.Wrap)
	s.Cipher, s.SectorSize, s.KeySize = h.Segment.Encryption, h.Segment.SectorSize, h.Token.KeySize
	return s
}

// DescribeChanges says what a rotation would change besides the key; it is empty if
// nothing.
func (h *Header) DescribeChanges(s spec.Volume) string {
	s = s.For(h.Token.Source, h.Segment.Encryption)
	var list []string
	change := func(what string, from, to any) {
		if from != to {
			list = append(list, fmt.Sprintf("%s from %v to %v", what, from, to))
		}
	}
	change("source", h.Token.Source, s.Source)
	switch {
	case h.Token.Source != s.Source:
	case h.Token.Protected() != s.Protected:
		change("protected", h.Token.Protected(), s.Protected)
	default:
		change("wrap", string(h.Token.Wrap), s.KeyWrap())
	}
	if s.Trusted.Source != "" && h.Token.Trust() != "" {
		change("trust source", h.Token.Trust(), s.Trusted.Source)
	}
	change("key_size", h.Token.KeySize, s.KeySize)
	change("cipher", h.Segment.Encryption, s.Cipher)
	change("sector_size", h.Segment.SectorSize, s.SectorSize)
	return strings.Join(list, ", ")
}
