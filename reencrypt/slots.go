// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// ReadRecord finds the record of the rotation b in the header area, without
// writing or flushing anything. offset is [Layout.RecordOffset]. It returns an
// error wrapping [ErrNoRecord] if there is none, or an [*IOError] if a slot
// cannot be read.
func ReadRecord(meta io.ReaderAt, offset int64, b Binding) (Record, error) {
	s, err := readSlots(meta, offset, alignedBuffer(RecordArea))
	if err != nil {
		return Record{}, err
	}
	return s.find(b)
}

// Reached is the highest generation of a key that a rotation of the volume has
// moved data to, as the slots say, finished or not; 0 if there was none. A
// header with an older key alone is an old copy. Errors as [ReadRecord].
func Reached(meta io.ReaderAt, offset int64, uuid [16]byte) (uint64, error) {
	s, err := readSlots(meta, offset, alignedBuffer(RecordArea))
	if err != nil {
		return 0, err
	}
	var most uint64
	for _, r := range s.valid {
		if r.UUID == uuid && !r.Untouched() {
			most = max(most, r.Generation)
		}
	}
	for _, r := range s.newer {
		if r.UUID == uuid {
			most = max(most, r.Generation)
		}
	}
	return most, nil
}

// Records is the newest record of each rotation of the volume that the slots
// name, in no order: two at most. Errors as [ReadRecord].
func Records(meta io.ReaderAt, offset int64, uuid [16]byte) ([]Record, error) {
	s, err := readSlots(meta, offset, alignedBuffer(RecordArea))
	if err != nil {
		return nil, err
	}
	var newest []Record
	if slices.ContainsFunc(s.newer, func(r Record) bool { return r.UUID == uuid }) {
		return nil, errNewerRecord
	}
	for _, r := range s.valid {
		if last, _ := s.find(r.Binding); r.UUID == uuid && !slices.Contains(newest, last) {
			newest = append(newest, last)
		}
	}
	return newest, nil
}

// slots is what the two slots hold: every valid copy, and the reason of a slot
// that has none.
type slots struct {
	valid []Record
	// newer are records of a newer program, of which only binding and sequence are known.
	newer  []Record
	reason [2]error
}

// readSlots reads both slots. An unreadable one ends it: what it held may be
// newer than the other, whose data may be overwritten by now.
func readSlots(meta io.ReaderAt, offset int64, buf []byte) (slots, error) {
	var s slots
	if err := readFull(meta, buf[:RecordArea], offset); err != nil {
		return s, &IOError{Op: "read", View: Meta, Offset: offset, Err: err}
	}
	for i := range s.reason {
		for c := range recordCopies {
			at := i*slotSize + c*recordSize
			r, err := parseRecord(buf[at : at+recordSize])
			if err == nil && r.Sequence%2 != uint64(i) {
				err = recordError("in the wrong slot")
			}
			if errors.Is(err, errNewerRecord) {
				s.newer = append(s.newer, r)
			}
			if err == nil {
				s.valid = append(s.valid, r)
			} else if s.reason[i] == nil || s.reason[i] == errEmptySlot {
				s.reason[i] = err
			}
		}
	}
	return s, nil
}

// find is the newest record of the rotation b.
func (s slots) find(b Binding) (Record, error) {
	// Older records of the same rotation say nothing: see readSlots.
	if slices.ContainsFunc(s.newer, func(r Record) bool { return r.Binding == b }) {
		return Record{}, errNewerRecord
	}
	var best Record
	for _, r := range s.valid {
		if r.Binding == b && r.Sequence > best.Sequence {
			best = r
		}
	}
	if best.Sequence > 0 {
		return best, nil
	}
	if len(s.valid) > 0 {
		return Record{}, fmt.Errorf("%w: the ones found belong to generation %d of another or the same volume",
			ErrNoRecord, s.valid[0].Generation)
	}
	return Record{}, fmt.Errorf("%w: first slot: %w; second slot: %w", ErrNoRecord, s.reason[0], s.reason[1])
}

// newest is the highest sequence of any rotation, 0 if there is none.
func (s slots) newest() uint64 {
	var n uint64
	for _, r := range slices.Concat(s.valid, s.newer) {
		n = max(n, r.Sequence)
	}
	return n
}

// firstSequence is that of the first record of the rotation b. It goes into the slot without
// the last record of the rotation before, which says that that one is over: torn over that,
// and cut off, it would leave only the one before the last, which says that it is not.
func (s slots) firstSequence(b Binding) uint64 {
	n, last := s.newest()+1, uint64(0)
	for _, r := range s.valid {
		if r.UUID == b.UUID && r.Binding != b {
			last = max(last, r.Sequence)
		}
	}
	if last > 0 && n%2 == last%2 {
		n++
	}
	return n
}

// started is a rotation of the volume that a new one would make forgotten: any
// that has moved data, unless it is another one and finished.
func (s slots) started(b Binding) (Record, bool) {
	for _, r := range s.valid {
		if r.UUID != b.UUID {
			continue
		}
		last, _ := s.find(r.Binding)
		if !last.Untouched() && (last.Binding == b || last.Phase != Finished) {
			return last, true
		}
	}
	return Record{}, false
}

// writeRecord writes one record into its slot and makes it durable.
func (e *Engine) writeRecord(r Record) error {
	if err := r.writeTo(e.views.Meta, e.layout.RecordOffset, e.slots[:slotSize]); err != nil {
		return err
	}
	return e.flush(Meta)
}

func (r Record) writeTo(meta io.WriterAt, offset int64, buf []byte) error {
	r.marshal(buf)
	at := offset + int64(r.Sequence%2)*slotSize
	if _, err := meta.WriteAt(buf, at); err != nil {
		return &IOError{Op: "write", View: Meta, Offset: at, Err: err}
	}
	return nil
}

// WriteAgain makes a record durable that was read through the page cache, which shows
// what a killed process had not flushed, and what a flush that failed has lost. It
// comes before anything that relies on the record. Errors are [*IOError].
func (r Record) WriteAgain(meta Writer, offset int64) error {
	err := r.writeTo(meta, offset, alignedBuffer(slotSize))
	if err == nil {
		if err = meta.Flush(); err != nil {
			err = &IOError{Op: "flush", View: Meta, Err: err}
		}
	}
	return err
}

// flushFailed reports whether an error may mean that storage has dropped what it had
// not made durable yet, of the data, too, where that is on the same storage.
func flushFailed(err error) bool {
	var failed *IOError
	return errors.As(err, &failed) && failed.Op == "flush"
}

// commit makes next the record that counts. If that fails it finds out which
// one does: nil if next made it after all, the write's error if the previous
// one still counts, an [*UnsettledError] if the storage does not say. A flush that failed
// once may succeed the next time without having written anything, so a record whose
// flush has failed counts only once it was written and flushed again.
func (e *Engine) commit(next Record, zone Zone) error {
	next.Sequence = e.record.Sequence + 1
	e.dropped = nil
	err := e.writeRecord(next)
	if err == nil {
		e.setRecord(next)
		return nil
	}
	flushed := flushFailed(err)
	if flushed && e.writeRecord(next) == nil {
		e.dropped = err
		e.setRecord(next)
		return nil
	}
	// What is read back must be what a power cut would leave: flush first.
	var found slots
	again := e.flush(Meta)
	if again == nil {
		found, again = readSlots(e.views.Meta, e.layout.RecordOffset, e.slots)
	}
	if again == nil {
		var r Record
		if r, again = found.find(e.binding); again == nil {
			switch {
			case r == next && !flushed:
				e.setRecord(next)
				return nil
			case r == e.record:
				return err
			}
		}
	}
	return &UnsettledError{Zone: zone, Err: errors.Join(err, again)}
}
