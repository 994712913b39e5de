// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// ReadRecord finds the record of the rotation b in the header area, without writing or
// flushing anything. offset is [Layout.RecordOffset]. The error wraps [ErrNoRecord] if
// there is no record, or is an [*IOError] if a slot cannot be read.
func ReadRecord(meta io.ReaderAt, offset int64, b Binding) (Record, error) {
	s, err := readSlots(meta, offset, alignedBuffer(RecordArea))
	if err != nil {
		return Record{}, err
	}
	return s.find(b)
}

// Reached returns the highest generation of a key that a rotation of the volume has moved
// data to, finished or not, according to the slots; 0 if there was none. A header that
// has only an older key is an old copy. Errors are as for [ReadRecord].
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

// Records returns the newest record of each rotation of the volume that is in the slots,
// in no particular order: at most two. Errors are as for [ReadRecord].
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

// slots is the content of the two slots: every valid copy, and for a slot without one the
// reason.
type slots struct {
	valid []Record
	// newer are records of a newer program, of which only binding and sequence are known.
	newer  []Record
	reason [2]error
}

// readSlots reads both slots. If one is unreadable it fails: that slot may have held a
// newer record than the other, whose data may be overwritten by now.
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

// find returns the newest record of the rotation b.
func (s slots) find(b Binding) (Record, error) {
	// Older records of the same rotation say nothing; see readSlots.
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

// newest returns the highest sequence of any rotation, or 0 if there is none.
func (s slots) newest() uint64 {
	var n uint64
	for _, records := range [][]Record{s.valid, s.newer} {
		for i := range records {
			n = max(n, records[i].Sequence)
		}
	}
	return n
}

// firstSequence returns the sequence of the first record of the rotation b. That record
// goes into the slot that does not hold the last record of the previous rotation, which
// says that the rotation is over. If a power cut tore the new record while it overwrote
// that one, only the record before it would remain, which says that the rotation is not
// over.
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

// started returns a rotation of the volume that a new one would cause to be forgotten:
// any that has moved data, unless it is a different one and finished.
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

// WriteAgain makes durable a record that was read through the page cache, which also
// shows what a killed process had not flushed and what a failed flush has lost. It must
// be called before anything that relies on the record. Errors are [*IOError].
func (r Record) WriteAgain(meta Writer, offset int64) error {
	err := r.writeTo(meta, offset, alignedBuffer(slotSize))
	if err == nil {
		if err = meta.Flush(); err != nil {
			err = &IOError{Op: "flush", View: Meta, Err: err}
		}
	}
	return err
}

// flushFailed reports whether err may mean that the storage has dropped what it had not
// made durable yet, including data if that is on the same storage.
func flushFailed(err error) bool {
	var failed *IOError
	return errors.As(err, &failed) && failed.Op == "flush"
}

// commit makes next the record that counts. If that fails, it finds out which record
// does. It returns nil if next was written after all, the write's error if the previous
// record still counts, and an [*UnsettledError] if the storage does not say. A flush that
// failed once may succeed the next time without having written anything, so a record
// whose flush failed counts only once it has been written and flushed again.
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
