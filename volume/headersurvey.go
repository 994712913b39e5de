// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"imxcrypt/internal/blank"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/luks2"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
)

// survey finds out what the backup would replace, and refuses the backup if what is on
// the device contradicts it.
func (t *restoring) survey() error {
	_, err := t.sys.Mapper.Info(t.s.Mapping)
	unlocked := err == nil
	if t.c.Header == nil {
		if unlocked {
			return t.busy()
		}
		return t.notDecrypted()
	}
	h, err := header.Read(t.c)
	if err == nil {
		if err := t.surveyHeader(h, unlocked); err != nil || t.j.result.Already {
			return err
		}
	} else if err := t.surveyRest(err); err != nil {
		return err
	}
	if unlocked {
		return t.busy()
	}
	if err := t.readBefore(); err != nil {
		return err
	}
	if err := t.refuseOutdated(h); err != nil {
		return err
	}
	return t.notDecrypted()
}

func (t *restoring) busy() error {
	return fault.Newf(fault.Busy, "/dev/mapper/%s is open: the header of a volume in use is not replaced", t.s.Mapping)
}

// surveyHeader compares the backup with the header that is there.
func (t *restoring) surveyHeader(h *header.Header, unlocked bool) error {
	if h.LUKS.UUID != t.backup.LUKS.UUID && h.LUKS.Label == t.backup.LUKS.Label {
		return t.refuseReplaced(h.LUKS.UUID, h.Token.Created)
	}
	if h.LUKS.UUID != t.backup.LUKS.UUID || h.LUKS.Label != t.backup.LUKS.Label {
		return fault.Newf(fault.HeaderMismatch, "%s holds another volume: %q with uuid %q, the backup is of %q with uuid %q",
			t.c.Header.Path(), h.LUKS.Label, h.LUKS.UUID, t.backup.LUKS.Label, t.backup.LUKS.UUID)
	}
	same, err := t.sameAs(h, t.c.Header)
	if t.j.result.Already = same; err != nil || same {
		return err
	}
	if unlocked {
		return t.busy()
	}
	if h.UnderRotation() {
		return fault.Newf(fault.RollbackRefused, "%s is being rotated: its data is under two keys, and only its own header says where", t.c.Header.Path())
	}
	if was, is := t.backup.Segment.Size, h.Segment.Size; is > was && !t.o.Force {
		return fault.Newf(fault.RollbackRefused, "the backup is from before a resize: it says that the volume has %d bytes, the header on %s says %d", was, t.c.Header.Path(), is)
	}
	t.what = fmt.Sprintf("the header on %s (generation %d, %s) will be replaced by that of the backup (generation %d)",
		t.c.Header.Path(), h.Token.Generation, h.Token.Phase, t.backup.Token.Generation)
	return nil
}

// refuseReplaced refuses the backup of a volume that another one of the same name has
// replaced.
func (t *restoring) refuseReplaced(uuid string, at time.Time) error {
	return fault.Newf(fault.VolumeReplaced, "on %s is another volume %q, with uuid %q, made on %s: it has replaced the one that the backup is for, with uuid %q, and overwritten its data, or this is not that one's device",
		t.path, t.s.Name, uuid, at.UTC().Format(time.DateOnly), t.backup.LUKS.UUID)
}

// surveyRest is surveyHeader if there is no readable header of ours; err says why.
func (t *restoring) surveyRest(err error) error {
	switch fault.CodeOf(err) {
	case fault.NotProvisioned, fault.ProvisioningStarted, fault.EraseStarted:
		if r, ok := t.recall(t.s); ok && r.UUID != t.backup.LUKS.UUID && !t.o.Force {
			return t.refuseReplaced(r.UUID, r.At)
		}
	case fault.HeaderDamaged, fault.HeaderInvalid:
		return t.surveyTraces(err)
	case fault.ForeignHeader, fault.PlaintextFound:
		if !t.o.Force {
			return err
		}
		t.what = "what lies in the header's place will be replaced (" + err.Error() + ")"
	default:
		return err
	}
	return nil
}

// surveyTraces refuses to overwrite the damaged header of another volume, whose data
// needs it. With Force it is overwritten only if the backup's key is proved.
func (t *restoring) surveyTraces(err error) error {
	traces, readErr := luks2.Traces(t.c.Header, t.c.Header.Size())
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	for _, trace := range traces {
		if trace.UUID == t.backup.LUKS.UUID {
			continue
		}
		t.another = fault.New(fault.HeaderMismatch, fmt.Sprintf("%s holds the damaged header of another volume: %q with uuid %q",
			t.c.Header.Path(), trace.Label, trace.UUID), err)
		if !t.o.Force {
			return t.another
		}
	}
	return nil
}

// readBefore reads what is replaced: as many bytes as the backup has on the device, all
// of a detached header. What an erase left need not be kept.
func (t *restoring) readBefore() error {
	n := int64(len(t.area))
	if t.s.Detached() {
		n = t.c.Header.Size()
	}
	if n > header.MaxHeaderArea {
		return fault.Newf(fault.FileUnsafe, "%s has %d bytes, more than a header can", t.c.Header.Path(), n)
	}
	t.before = make([]byte, min(n, t.c.Header.Size()))
	lost, err := readPatiently(t.c.Header, t.before)
	if lost > 0 {
		t.j.warn(fmt.Sprintf("%d bytes of what is there cannot be read, and are kept as zeros: %v", lost, err))
	}
	if int64(len(t.before)) < header.EraseRecordOffset+header.BlockAlign {
		return nil
	}
	if r, ok := header.ParseEraseRecord(t.before[header.EraseRecordOffset:]); ok && r.State == header.EraseDone {
		rest := bytes.Clone(t.before)
		clear(rest[header.EraseRecordOffset : header.EraseRecordOffset+header.BlockAlign])
		if blank.Zero(rest) {
			t.before = nil
		}
	}
	return nil
}

// readPatiently reads what can be read from the start of a device, block by block if it
// must. It returns how many bytes could not be read, and why.
func readPatiently(dev header.Device, b []byte) (lost int, err error) {
	if n, err := dev.ReadAt(b, 0); n == len(b) {
		return 0, nil
	} else if err == nil {
		return len(b) - n, nil
	}
	for at := 0; at < len(b); at += header.BlockAlign {
		block := b[at:min(at+header.BlockAlign, len(b))]
		if n, readErr := dev.ReadAt(block, int64(at)); n < len(block) {
			clear(block)
			lost, err = lost+len(block), readErr
		}
	}
	return lost, err
}

// refuseOutdated checks whether what is there shows a newer key than the backup's, or a
// rotation. h is the header there, nil if it cannot be read.
func (t *restoring) refuseOutdated(h *header.Header) error {
	newest, err := newestGeneration(t.before, t.backup, t.c.Header.Path(), t.o.Force)
	if err != nil {
		return err
	}
	known := uint64(t.backup.Token.Generation)
	if t.older = newest > known; t.older && !t.o.Force {
		return fault.Newf(fault.RollbackRefused, "the backup has the key of generation %d, what is on %s shows generation %d", known, t.c.Header.Path(), newest)
	}
	t.witnessed = !t.older && (h != nil && h.Token.Generation == t.backup.Token.Generation || t.sameChecks())
	return nil
}

// newestGeneration returns the newest generation that the content of a header's place
// shows. A rotation that has moved data, and that h does not know of, is an error; with
// force, uncertain evidence is ignored.
func newestGeneration(area []byte, h *header.Header, place string, force bool) (newest uint64, err error) {
	b, err := h.RotationBinding(0)
	if err != nil {
		return 0, err
	}
	known := uint64(h.Token.Generation)
	var records []reencrypt.Record
	if int64(len(area)) >= header.RotationJournalOffset {
		if records, err = reencrypt.Records(bytes.NewReader(area), header.RotationRecordOffset, b.UUID); err != nil {
			return 0, err
		}
	}
	untouched := map[uint64]bool{}
	for _, r := range records {
		switch {
		case r.Untouched():
			untouched[r.Generation] = true
		case r.Phase == reencrypt.Finished:
			newest = max(newest, r.Generation)
		case r.Generation > known || r.Generation == known && !force:
			return 0, fault.Newf(fault.RollbackRefused, "a rotation to generation %d has moved %d of %d bytes: the data is under two keys, and a header of generation %d does not know where",
				r.Generation, r.Done(), r.DataSize, known)
		}
	}
	slots, _ := h.LUKS.KeyslotsArea()
	text := area[:min(slots, int64(len(area)))]
	// The text of a copy may show its keys even if the copy is damaged. The expressions
	// are compiled here: at package level every start of the program would pay for them.
	namedGeneration := regexp.MustCompile(`"generation":"([0-9]{1,9})"`)
	namedRotation := regexp.MustCompile(`"phase":"` + string(header.PhaseRotating) + `"|"` + header.RequirementRotate + `"`)
	for _, named := range namedGeneration.FindAllSubmatch(text, -1) {
		if g, err := strconv.ParseUint(string(named[1]), 10, 64); err == nil && !untouched[g] {
			newest = max(newest, g)
		}
	}
	if namedRotation.Match(text) && len(records) == 0 && !force && newest <= known {
		return 0, fault.Newf(fault.RollbackRefused, "what is left of the header on %s shows a rotation, and no record says how far it has come", place)
	}
	return newest, nil
}

// sameChecks reports whether the check areas are unchanged since the backup was made: a
// rotation writes the check of its key before it moves any data.
func (t *restoring) sameChecks() bool {
	if !t.backup.Check.InHeader() || int64(len(t.before)) < header.EraseRecordOffset {
		return false
	}
	return bytes.Equal(t.before[header.MetadataSize:header.EraseRecordOffset], t.area[header.MetadataSize:header.EraseRecordOffset])
}

// notMoved checks, if neither header nor checks nor records are left, that no rotation
// has moved data into the space that it would use first: long after that, the
// filesystem's first blocks may still be seen through the old key.
func (t *restoring) notMoved() error {
	if t.witnessed || t.older || t.c.Header == nil {
		return nil
	}
	l, err := t.backup.PlanRotation(t.s, t.c)
	if err != nil || l.Mode != reencrypt.Gap {
		return nil // it would begin with the filesystem's first blocks
	}
	at := l.NewOffset
	if l.Direction == reencrypt.Backward {
		at += l.DataSize - header.BlockAlign
	}
	block := make([]byte, header.BlockAlign)
	if _, err := t.c.Data.ReadAt(block, at); err != nil {
		return fault.New(fault.IOFailed, "read "+t.path, err)
	}
	if blank.Erased(block) || t.o.Force && !mapping.Noise(block) {
		return nil // with Force it may have been overwritten, but not with encrypted data
	}
	return fault.Newf(fault.RollbackRefused, "nothing of the header on %s is left to show whether a rotation has begun since the backup was made, and the room that it moves data into, at byte %d, is not empty",
		t.path, at)
}

// notDecrypted refuses a backup if the volume may be in the middle of a decryption. That
// begins at the end of the data if the header is in a file: the key still shows the
// filesystem, and a header from before would have the part in plain text decrypted again.
// With Force what looks like plain text does not count: it may be left from before the
// volume was made.
func (t *restoring) notDecrypted() error {
	if t.witnessed {
		return nil
	}
	if err := t.refuseDecrypting(t.s); err != nil {
		return err
	}
	if !t.s.Detached() {
		return t.notKept()
	}
	if t.o.Force {
		return nil
	}
	end := t.backup.Segment.Offset + t.backup.Segment.Size
	at, err := findBlock(t.c.Data, max(t.backup.Segment.Offset, end-searchedForNoise), end, func(block []byte) bool {
		return !blank.Erased(block) && !noisy(block)
	})
	if err != nil {
		return fault.New(fault.IOFailed, "read "+t.path, err)
	}
	if at >= 0 {
		return fault.Newf(fault.RollbackRefused, "what is at byte %d of %s is in plain text, and nothing of the header is left to show whether the volume was being decrypted; --force restores the backup if that is left from before the volume was made", at, t.path)
	}
	return nil
}

// notKept is notDecrypted for a header on the device. A decryption keeps the filesystem's
// first bytes behind the data, where nothing else is. They are not found if the partition
// was enlarged since.
func (t *restoring) notKept() error {
	h, dev := t.backup, t.c.Data
	at := header.PlanStart(dev.Size(), h.LUKS.Area()).Saved
	if at < h.Segment.Offset+h.Segment.Size {
		return nil
	}
	sb, err := fsprobe.Read((&header.Header{LUKS: h.LUKS, Moved: at}).PlainView(dev), dev.Size())
	switch {
	case errors.Is(err, fsprobe.ErrNone) || errors.As(err, new(*fsprobe.ChecksumError)):
		return nil
	case err != nil:
		return fault.New(fault.IOFailed, "read "+t.path, err)
	case !sb.Verified && sb.UUID != h.Token.Filesystem.UUID:
		return nil
	}
	return fault.Newf(fault.RollbackRefused, "at byte %d of %s, where a decryption keeps the filesystem's beginning, is that of %s in plain text: a part of the data may be decrypted, and only the volume's own header says which", at, t.path, sb.Type)
}
