// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// Completed is the header that two damaged copies make together.
type Completed struct {
	// Image is both copies, whole.
	Image []byte
	// Checksummed means that the checksum in one of the copies matches the result, so
	// that it is what was once written. Otherwise both copies agree in everything but
	// their checksums, and the caller has to prove the result.
	Checksummed bool
	// secondary means that the second copy's checksum matches; it is then written last.
	secondary bool
}

// Complete assembles a header if neither copy can be used and each has what the other has
// lost: a binary header in one and the text in the other, or texts that are damaged in
// different places. Nothing is written. Whether something else was made over the header
// is for the caller to decide. The result is nil if a copy can be used.
//
// Errors: that of [Read] if the copies do not complete each other, or were written as
// they are, or the device's own, wrapped.
func Complete(r io.ReaderAt, size int64) (*Completed, error) {
	s := scan(r, place{size: size, kind: anywhere, data: -1})
	damaged := (*DamagedError)(nil)
	switch {
	case s.err == nil:
		return nil, nil
	case !errors.As(s.err, &damaged) && !errors.Is(s.err, ErrNotLUKS):
		return nil, s.err
	}
	for _, n := range copySizes(r, size) {
		raw := make([]byte, 2*n)
		if got, err := r.ReadAt(raw, 0); got != len(raw) {
			return nil, &readError{off: 0, err: err}
		}
		c := complete(raw[:n], raw[n:])
		if c == nil {
			continue
		}
		if scan(bytes.NewReader(c.Image), place{size: size, kind: anywhere, data: -1}).err == nil {
			return c, nil
		}
	}
	return nil, s.err
}

// Write writes both copies, the one whose checksum proves them last. At any time each
// sector is as it was or as it should be: wherever the write is interrupted, the copies
// still complete each other.
func (c *Completed) Write(dev Device) error {
	if err := flush(dev); err != nil {
		return err
	}
	n := len(c.Image) / 2
	for _, secondary := range []bool{!c.secondary, c.secondary} {
		buf := c.Image[:n]
		if secondary {
			buf = c.Image[n:]
		}
		if err := writeCopy(dev, buf, secondary); err != nil {
			return err
		}
		if err := flush(dev); err != nil {
			return err
		}
	}
	return nil
}

// copySizes returns the sizes that the copies may have, according to what is left of
// them, the most likely first.
func copySizes(r io.ReaderAt, size int64) []int64 {
	d := &devReader{r: r, size: size}
	var sizes []int64
	add := func(n int64) {
		if 2*n <= size && !slices.Contains(sizes, n) {
			sizes = append(sizes, n)
		}
	}
	if first, err := d.fetch(0, min(size, headerUsed)); err == nil && len(first) == headerUsed {
		if n := binary.BigEndian.Uint64(first[offSize:]); slices.Contains(headerSizes[:], int64(n)) {
			add(int64(n))
		}
	}
	for _, n := range headerSizes {
		if 2*n > size {
			break
		}
		if magic, err := d.fetch(n, int64(len(magicSecondary))); err == nil && string(magic) == magicSecondary {
			add(n)
		}
	}
	add(DefaultCopySize)
	return sizes
}

// complete makes both copies from what is left of them; nil if that is not enough.
func complete(first, second []byte) *Completed {
	raw, bodies := [2][]byte{first, second}, [2][]byte{body(first), body(second)}
	var found *Completed
	for i, secondary := range []bool{false, true} {
		whole := search(bodies[i], bodies[1-i], raw[i], secondary)
		if whole == nil || found != nil && binary.BigEndian.Uint64(whole[offSeqID:]) <= binary.BigEndian.Uint64(found.Image[offSeqID:]) {
			continue
		}
		var copies [2][]byte
		copies[i], copies[1-i] = whole, withChecksum(body(whole), raw[1-i], !secondary)
		found = &Completed{Image: slices.Concat(copies[0], copies[1]), Checksummed: true, secondary: secondary}
	}
	if found == nil && bytes.Equal(bodies[0], bodies[1]) {
		found = &Completed{Image: slices.Concat(withChecksum(bodies[0], first, false), withChecksum(bodies[1], second, true))}
	}
	return found
}

// body returns what the two copies of a header have in common: what is the same in all
// headers is corrected, and what is specific to each copy is left out.
func body(raw []byte) []byte {
	b := slices.Clone(raw)
	copy(b, magicPrimary)
	binary.BigEndian.PutUint16(b[offVersion:], version)
	binary.BigEndian.PutUint64(b[offSize:], uint64(len(b)))
	clear(b[offAlgorithm:offUUID]) // and the salt
	copy(b[offAlgorithm:], algorithm)
	clear(b[offOffset:binarySize])
	return b
}

// withChecksum returns the copy that a body makes with the salt in raw.
func withChecksum(body, raw []byte, secondary bool) []byte {
	b := slices.Clone(body)
	copy(b, magicOf(secondary))
	copy(b[offSalt:offSalt+lenSalt], raw[offSalt:])
	if secondary {
		binary.BigEndian.PutUint64(b[offOffset:], uint64(len(b)))
	}
	sum := checksum(b)
	copy(b[offChecksum:], sum[:])
	return b
}

// searchBytes limits how many bytes are hashed in search of a match for a checksum: a
// second or two on a slow board.
const searchBytes = 16 << 20

// search takes each run of bytes in which two bodies differ from one or the other, until
// the copy matches the checksum in raw; nil if none does.
func search(own, other, raw []byte, secondary bool) []byte {
	tried := -1
	// Damage is a run, except if the lost bytes are there by chance, or if both copies
	// are damaged within a sector.
	for _, gap := range []int{sectorSize, 32, 1} {
		runs := differences(own, other, gap)
		if len(runs) == tried || len(runs) > 20 || len(own)<<len(runs) > searchBytes {
			continue
		}
		tried = len(runs)
		for choice := range 1 << len(runs) {
			candidate := slices.Clone(own)
			for i, run := range runs {
				if choice>>i&1 == 1 {
					copy(candidate[run[0]:run[1]], other[run[0]:run[1]])
				}
			}
			c := withChecksum(candidate, raw, secondary)
			if bytes.Equal(c[offChecksum:offChecksum+lenChecksum], raw[offChecksum:offChecksum+lenChecksum]) {
				return c
			}
		}
	}
	return nil
}

// differences returns the runs, from and to, in which two bodies differ. Runs less than
// gap bytes apart are joined.
func differences(a, b []byte, gap int) [][2]int {
	var runs [][2]int
	for i := range a {
		switch last := len(runs) - 1; {
		case a[i] == b[i]:
		case last >= 0 && i-runs[last][1] < gap:
			runs[last][1] = i + 1
		default:
			runs = append(runs, [2]int{i, i + 1})
		}
	}
	return runs
}
