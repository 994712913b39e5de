// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// CopyState is the state of one copy of the header.
type CopyState string

// States of a copy. Only a good or older copy can be used.
const (
	CopyGood       CopyState = "good"
	CopyOlder      CopyState = "older"      // good, with a lower sequence number than the other
	CopyDamaged    CopyState = "damaged"    // magic number, but the checksum or what leads to it is wrong
	CopyInvalid    CopyState = "invalid"    // matching checksum, but the content breaks the format
	CopyUnreadable CopyState = "unreadable" // I/O error
	CopyAbsent     CopyState = "absent"     // no magic number
)

// Copy describes one of the two copies as it is on the device.
type Copy struct {
	Offset int64 // in bytes
	State  CopyState
	SeqID  uint64 // 0 unless the checksum matches
	// Err says why the copy cannot be used; nil for a good or older one.
	Err error
}

// Copies describes both copies.
type Copies struct {
	Primary, Secondary Copy
	// Conflict means that both are good and have the same sequence number, but different
	// content. No interrupted write leaves that; the first one was taken.
	Conflict bool
}

// Intact reports whether there is nothing to repair.
func (c Copies) Intact() bool {
	return c.Primary.State == CopyGood && c.Secondary.State == CopyGood && !c.Conflict
}

// Damage says what is wrong with the copies; it is empty if nothing is.
func (c Copies) Damage() string {
	var wrong []string
	for _, x := range []struct {
		name string
		Copy
	}{{"first", c.Primary}, {"second", c.Secondary}} {
		switch {
		case x.State == CopyOlder:
			wrong = append(wrong, x.name+": an older state")
		case x.Err != nil:
			wrong = append(wrong, fmt.Sprintf("%s: %v", x.name, x.Err))
		}
	}
	if c.Conflict {
		wrong = append(wrong, "they differ")
	}
	return strings.Join(wrong, "; ")
}

// Read reads the header at the start of a device that also holds its data. size is the
// device's in bytes, and no segment may touch the header or extend beyond the device.
// Copies is filled in even if there is an error.
//
// One call of ReadAt for 32 KiB is enough for a header of the default size.
//
// Errors: ErrNotLUKS, *VersionError, *InvalidError, *DamagedError (neither copy is
// usable), or the device's own, wrapped.
func Read(r io.ReaderAt, size int64) (*Header, Copies, error) {
	return readAt(r, place{size: size, kind: attached, data: size})
}

// ReadDetached reads a header that is separate from its data, usually in a file. size is
// that of what holds the header, dataSize that of the device it describes, both in bytes.
// With a negative dataSize the ends of the segments are not checked; see
// [Header.CheckData]. Errors are as for [Read].
func ReadDetached(r io.ReaderAt, size, dataSize int64) (*Header, Copies, error) {
	return readAt(r, place{size: size, kind: detached, data: dataSize})
}

func readAt(r io.ReaderAt, at place) (*Header, Copies, error) {
	s := scan(r, at)
	if s.err != nil {
		return nil, s.copies(), s.err
	}
	return s.header(at), s.copies(), nil
}

// scanned is everything known about the two copies on a device.
type scanned struct {
	primary, secondary onDisk
	// best is the copy that counts, one of the two; nil if err is set.
	best     *onDisk
	conflict bool
	err      error
}

// onDisk is one copy as read.
type onDisk struct {
	Copy
	buf []byte // the whole copy; nil unless its checksum matches
	bin binaryHeader
	md  *Metadata // nil unless valid
}

func (c *onDisk) usable() bool { return c.md != nil }

// fail records why the copy cannot be used.
func (c *onDisk) fail(state CopyState, err error) { c.State, c.Err = state, err }

// scan reads both copies and decides which one counts.
func scan(r io.ReaderAt, at place) *scanned {
	s := &scanned{}
	d := newDevReader(r, at.size)
	s.primary = readCopy(d, 0, at, nil)
	if v := (*VersionError)(nil); errors.As(s.primary.Err, &v) && s.primary.State == CopyInvalid {
		s.err = v
		return s
	}
	if s.primary.buf != nil {
		s.secondary = readCopy(d, s.primary.bin.size, at, &s.primary)
	} else {
		s.secondary = searchSecondary(d, at)
	}
	s.decide()
	return s
}

// searchSecondary looks for the second copy if the first does not give its size. The
// lowest place wins: a copy below the right place would be inside the first copy's JSON
// area.
func searchSecondary(d *devReader, at place) onDisk {
	var best *onDisk
	for _, off := range headerSizes {
		c := readCopy(d, off, at, nil)
		if c.usable() {
			return c
		}
		if best == nil || (best.State == CopyAbsent && c.State != CopyAbsent) {
			best = &c
		}
		if off+off > d.size {
			break
		}
	}
	return *best
}

// readCopy reads and validates the copy at off. If it has the same JSON text as like, it
// shares the metadata instead of parsing it again.
func readCopy(d *devReader, off int64, at place, like *onDisk) onDisk {
	c := onDisk{Copy: Copy{Offset: off, State: CopyGood}}
	bin, err := d.read(off, min(binarySize, max(d.size-off, 0)))
	if err != nil {
		c.fail(CopyUnreadable, err)
		return c
	}
	if len(bin) < headerUsed {
		c.fail(CopyAbsent, invalid(RuleTruncated, "the device ends at byte %d, before a copy at %d", d.size, off))
		return c
	}
	size, err := copySize(bin, off)
	var rule *InvalidError
	var other *VersionError
	switch {
	case errors.As(err, &other):
		c.failVersion(d, bin, other)
		return c
	case errors.As(err, &rule) && rule.Rule == RuleMagic:
		c.fail(CopyAbsent, err)
		return c
	case err != nil:
		c.fail(CopyDamaged, err)
		return c
	case size > d.size-off:
		c.fail(CopyDamaged, invalid(RuleTruncated, "the device ends at byte %d, within the copy at %d", d.size, off))
		return c
	}
	buf, err := d.read(off, size)
	if err != nil {
		c.fail(CopyUnreadable, err)
		return c
	}
	if err := verify(buf); err != nil {
		c.fail(CopyDamaged, err)
		return c
	}
	c.buf = buf
	c.bin, err = parseBinary(buf)
	c.SeqID = c.bin.seqID
	if at.kind == foreign && errors.As(err, &rule) && (rule.Rule == RuleUUID || rule.Rule == RulePadding) {
		err = nil
	}
	if err != nil {
		c.fail(CopyInvalid, err)
		return c
	}
	if like != nil && like.usable() && bytes.Equal(buf[binarySize:], like.buf[binarySize:]) {
		c.md = like.md
		return c
	}
	if c.md, err = decodeMetadata(buf[binarySize:], at); err != nil {
		c.fail(CopyInvalid, err)
	}
	return c
}

// failVersion distinguishes a header of another version from flipped bits. For the former
// the state is "invalid": something else is there, on purpose.
func (c *onDisk) failVersion(d *devReader, bin []byte, other *VersionError) {
	size := int64(binary.BigEndian.Uint64(bin[offSize:]))
	if slices.Contains(headerSizes[:], size) && size <= d.size-c.Offset {
		if buf, err := d.read(c.Offset, size); err == nil && onlyVersionDamaged(buf) {
			c.fail(CopyDamaged, other)
			return
		}
	}
	c.fail(CopyInvalid, other)
}

// decide chooses the copy that counts, or the error.
func (s *scanned) decide() {
	p, q := &s.primary, &s.secondary
	switch {
	case p.usable() && q.usable():
		s.decideBoth()
	case p.usable():
		s.decideOne(p, q)
	case q.usable():
		s.decideOne(q, p)
	default:
		s.err = s.failure()
	}
}

func (s *scanned) decideBoth() {
	p, q := &s.primary, &s.secondary
	switch {
	case p.bin.uuid != q.bin.uuid:
		s.err = invalid(RuleTwoVolumes, "the first copy has UUID %q, the second %q", p.bin.uuid, q.bin.uuid)
	case p.SeqID > q.SeqID:
		s.best, q.State = p, CopyOlder
	case p.SeqID < q.SeqID:
		s.best, p.State = q, CopyOlder
	default:
		s.best = p
		s.conflict = p.bin.label != q.bin.label || p.bin.subsystem != q.bin.subsystem ||
			!bytes.Equal(p.buf[binarySize:], q.buf[binarySize:])
	}
}

// decideOne chooses if only good is usable. Damage does not produce matching checksums:
// if the other copy has one and a higher number, it was written on purpose, by a newer
// program or an attacker, and an older state must not replace it.
func (s *scanned) decideOne(good, bad *onDisk) {
	if bad.State == CopyInvalid && bad.buf != nil && bad.SeqID > good.SeqID {
		s.err = bad.Err
		return
	}
	s.best = good
}

// failure returns the error if neither copy is usable.
func (s *scanned) failure() error {
	p, q := &s.primary, &s.secondary
	switch {
	case p.State == CopyInvalid:
		return p.Err
	case q.State == CopyInvalid:
		return q.Err
	case p.State == CopyAbsent && q.State == CopyAbsent:
		return ErrNotLUKS
	case p.State == CopyDamaged || q.State == CopyDamaged:
		return &DamagedError{Primary: p.Err, Secondary: q.Err}
	case p.State == CopyUnreadable:
		return p.Err
	}
	return q.Err
}

func (s *scanned) copies() Copies {
	return Copies{Primary: s.primary.Copy, Secondary: s.secondary.Copy, Conflict: s.conflict}
}

// header makes a Header from the copy that counts.
func (s *scanned) header(at place) *Header {
	b := s.best
	h := &Header{
		SeqID: b.SeqID, UUID: b.bin.uuid, Label: b.bin.label, Subsystem: b.bin.subsystem,
		Metadata: *b.md, copySize: b.bin.size, kind: at.kind, data: at.data,
	}
	if at.kind == anywhere || at.kind == foreign {
		h.kind = attached
		for _, g := range h.Metadata.Segments {
			if !g.Backup() && g.Offset == 0 {
				h.kind = detached
			}
		}
	}
	// A copy without a salt to keep gets one when it is written.
	h.salts[0], h.salts[1] = s.primary.bin.salt, s.secondary.bin.salt
	return h
}

// devReader reads a device with the usual 32 KiB, both copies of a header of the default
// size, already in memory.
type devReader struct {
	r     io.ReaderAt
	size  int64
	start []byte
}

func newDevReader(r io.ReaderAt, size int64) *devReader {
	d := &devReader{r: r, size: max(size, 0)}
	// An error here may affect only one copy: each is read again by itself.
	if start, err := d.fetch(0, min(2*DefaultCopySize, d.size)); err == nil {
		d.start = start
	}
	return d
}

// read returns n bytes at off, which the caller has checked to be inside the device. The
// slice may be shared and must not be written to.
func (d *devReader) read(off, n int64) ([]byte, error) {
	if off+n <= int64(len(d.start)) {
		return d.start[off : off+n], nil
	}
	return d.fetch(off, n)
}

func (d *devReader) fetch(off, n int64) ([]byte, error) {
	buf := make([]byte, n)
	got, err := d.r.ReadAt(buf, off)
	if int64(got) == n {
		return buf, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, &readError{off: off, err: err}
}
