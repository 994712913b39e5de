// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"

	"imxcrypt/internal/blank"
)

// Device is what headers are written to. Flush returns once everything written so far
// will survive a power cut.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Size() int64 // in bytes
	Flush() error
}

// Write replaces the header that this one was read from, with the next sequence number.
// Wherever it is interrupted, a reader afterwards finds the old or the new header:
//
//  1. flush: what was read may not have been durable yet
//  2. if a copy is damaged or older, rewrite it from the other; flush. Without this step
//     the next one could be interrupted while it overwrites the only good copy.
//  3. write the second copy; flush
//  4. write the first copy; flush
//
// Errors: *InvalidError (the header itself, or what is on the device), *ConflictError
// (something else wrote it since it was read), *ForeignError, all errors of [Read], and
// the device's own, wrapped. After an error of the last kind the device holds the old or
// the new header: read it again before another attempt.
func (h *Header) Write(dev Device) error {
	at := h.place(dev.Size())
	next, err := h.next(h.SeqID)
	if err != nil {
		return err
	}
	text, err := next.encode(at)
	if err != nil {
		return err
	}
	if err := flush(dev); err != nil {
		return err
	}
	s := scan(dev, at)
	if s.err != nil {
		return s.err
	}
	if s.best.bin.uuid != h.UUID || s.best.SeqID != h.SeqID || s.best.bin.size != h.copySize {
		return &ConflictError{WantUUID: h.UUID, HaveUUID: s.best.bin.uuid, WantSeqID: h.SeqID, HaveSeqID: s.best.SeqID}
	}
	if _, err := repair(dev, s, false); err != nil {
		return err
	}
	if err := next.writeCopies(dev, text); err != nil {
		return err
	}
	h.SeqID, h.salts = next.SeqID, next.salts
	return nil
}

// Format writes the first header of an empty device, or of the file of a detached header,
// with sequence number 1: second copy, flush, first copy, flush. If it is interrupted, it
// leaves nothing, or the header, or what [Unfinished] recognizes. It does not check
// whether the rest of the device is empty; that is the caller's duty.
//
// Errors: *ExistsError if there is a LUKS header or remains of one that no interrupted
// Format explains, *InvalidError, and the device's own, wrapped.
func (h *Header) Format(dev Device) error {
	first := h.Clone()
	first.SeqID = 1
	at := h.place(dev.Size())
	text, err := first.encode(at)
	if err != nil {
		return err
	}
	if err := flush(dev); err != nil {
		return err
	}
	switch s := scan(dev, at); {
	case errors.Is(s.err, ErrNotLUKS):
	case s.err == nil:
		return &ExistsError{}
	default:
		if _, unfinished, err := Unfinished(dev, dev.Size()); err != nil {
			return err
		} else if !unfinished {
			return &ExistsError{Err: s.err}
		}
	}
	if err := first.writeCopies(dev, text); err != nil {
		return err
	}
	h.SeqID, h.salts = first.SeqID, first.salts
	return nil
}

// Restore writes the header, usually one from a backup, whatever is on the device,
// including damage, another header or another generation. The caller must check for these
// before. The sequence number becomes higher than any that is there. If no number is
// higher, it becomes 1; until both copies are replaced, a reader then finds the old
// header. If there is a good header, a reader finds the old or the new one wherever the
// write is interrupted. The keyslots area is left to the caller.
//
// Errors: *InvalidError, also if a good header with copies of another size is there, and
// the device's own, wrapped.
func (h *Header) Restore(dev Device) error {
	at := h.place(dev.Size())
	if err := flush(dev); err != nil {
		return err
	}
	s := scan(dev, place{size: dev.Size(), kind: anywhere, data: -1})
	if s.err == nil && s.best.bin.size != h.copySize {
		return invalid(RuleHeaderSize, "the header on the device has copies of %d bytes, the one to restore of %d", s.best.bin.size, h.copySize)
	}
	last := max(h.SeqID, s.primary.SeqID, s.secondary.SeqID)
	if last == math.MaxUint64 {
		last = 0
	}
	next, err := h.next(last)
	if err != nil {
		return err
	}
	text, err := next.encode(at)
	if err != nil {
		return err
	}
	if s.err == nil {
		if _, err := repair(dev, s, true); err != nil {
			return err
		}
	}
	if err := next.writeCopies(dev, text); err != nil {
		return err
	}
	h.SeqID, h.salts = next.SeqID, next.salts
	return nil
}

// Repair rewrites a damaged or older copy from the good one, and flushes. It flushes
// first, so that what the caller acts on afterwards is durable in either case. repaired
// is false if there was nothing to do.
//
// Errors: those of [Read], *ForeignError, and the device's own, wrapped.
func Repair(dev Device) (repaired bool, err error) { return repairAt(dev, false) }

// RepairOver is [Repair], but also overwrites what looks like something else in place of
// the first copy. The caller has checked that it may.
func RepairOver(dev Device) (repaired bool, err error) { return repairAt(dev, true) }

func repairAt(dev Device, force bool) (bool, error) {
	if err := flush(dev); err != nil {
		return false, err
	}
	s := scan(dev, place{size: dev.Size(), kind: anywhere, data: -1})
	if s.err != nil {
		return false, s.err
	}
	return repair(dev, s, force)
}

// repair makes both copies the same as the best one. With force it also overwrites
// something else in place of the first copy.
func repair(dev Device, s *scanned, force bool) (bool, error) {
	if s.copies().Intact() {
		return false, nil
	}
	secondary := s.best == &s.primary
	if !force {
		if err := unobstructed(dev, s); err != nil {
			return false, err
		}
	}
	buf, err := twin(s.best.buf, secondary)
	if err != nil {
		return false, err
	}
	if err := writeCopy(dev, buf, secondary); err != nil {
		return false, err
	}
	return true, flush(dev)
}

// twin makes the other copy of a good one: the same content and number, with its own
// salt.
func twin(good []byte, secondary bool) ([]byte, error) {
	var salt [lenSalt]byte
	if err := newSalt(&salt); err != nil {
		return nil, err
	}
	buf := slices.Clone(good)
	copy(buf[offMagic:], magicOf(secondary))
	copy(buf[offSalt:], salt[:])
	offset := uint64(0)
	if secondary {
		offset = uint64(len(buf))
	}
	binary.BigEndian.PutUint64(buf[offOffset:], offset)
	sum := checksum(buf)
	copy(buf[offChecksum:], sum[:])
	return buf, nil
}

// Room returns an error if the sequence number leaves no room for that many writes: an
// operation that begins with one of them must be able to finish.
func (h *Header) Room(writes uint64) error {
	if h.SeqID > math.MaxUint64-writes {
		return invalid(RuleSequence, "the sequence number %d cannot grow by %d", h.SeqID, writes)
	}
	return nil
}

// Unobstructed returns a *ForeignError if something else is in place of the first copy:
// [Header.Write] would not write over it.
func (h *Header) Unobstructed(dev Device) error {
	s := scan(dev, h.place(dev.Size()))
	if s.err != nil {
		return s.err
	}
	return unobstructed(dev, s)
}

func unobstructed(dev io.ReaderAt, s *scanned) error {
	if s.best == &s.primary || s.primary.State == CopyOlder {
		return nil
	}
	foreign, err := overwritten(dev, s)
	if err == nil && foreign {
		err = &ForeignError{}
	}
	return err
}

// next returns a copy of the header with the number after seqID, and a salt for each
// copy.
func (h *Header) next(seqID uint64) (*Header, error) {
	if seqID == math.MaxUint64 {
		return nil, invalid(RuleSequence, "the sequence number cannot grow any more")
	}
	n := h.Clone()
	n.SeqID = seqID + 1
	for i := range n.salts {
		if !blank.Zero(n.salts[i][:]) {
			continue
		}
		if err := newSalt(&n.salts[i]); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// writeCopies writes and flushes the second copy, then the first.
func (h *Header) writeCopies(dev Device, text []byte) error {
	for _, secondary := range []bool{true, false} {
		if err := writeCopy(dev, encodeCopy(h.binary(secondary), text, secondary), secondary); err != nil {
			return err
		}
		if err := flush(dev); err != nil {
			return err
		}
	}
	return nil
}

func writeCopy(dev io.WriterAt, buf []byte, secondary bool) error {
	off, what := int64(0), "write the first copy of the LUKS2 header"
	if secondary {
		off, what = int64(len(buf)), "write the second copy of the LUKS2 header"
	}
	if _, err := dev.WriteAt(buf, off); err != nil {
		return &writeError{what, err}
	}
	return nil
}

func flush(dev Device) error {
	if err := dev.Flush(); err != nil {
		return &writeError{"flush the LUKS2 header", err}
	}
	return nil
}
