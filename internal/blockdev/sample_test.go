// SPDX-License-Identifier: Apache-2.0

// These tests need no kernel of their own, so they need not run on an emulated one.
//go:build !vm

package blockdev

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// filled is a device of one value, except for the bytes in other.
type filled struct {
	fill     byte
	size     int64
	other    map[int64]byte
	every    int64 // if not 0: one more byte 0x5a in each run of so many bytes
	from, to int64 // within this range, each read finds a 7
	fail     int64 // reading this byte is an I/O error, unless 0
}

func (f *filled) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.size {
		return 0, io.EOF
	}
	if f.fail >= off && f.fail < off+int64(len(p)) && f.fail != 0 {
		return 0, unix.EIO
	}
	copy(p, bytes.Repeat([]byte{f.fill}, len(p)))
	if f.to > f.from && off < f.to && off+int64(len(p)) > f.from {
		p[max(f.from-off, 0)] = 7
	}
	for at, b := range f.other {
		if at >= off && at < off+int64(len(p)) {
			p[at-off] = b
		}
	}
	if f.every != 0 {
		for at := (off + f.every - 1) / f.every * f.every; at < off+int64(len(p)); at += f.every {
			p[at-off] = 0x5a
		}
	}
	return len(p), nil
}

func TestSampleEmpty(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, 511, 4096, edge, 2*edge + 512, wholeBelow, wholeBelow + 512, 64 << 20, 8 << 30, 1 << 50} {
		for _, fill := range []byte{0x00, 0xff} {
			f := &filled{fill: fill, size: size}
			e, err := Sample(f, size)
			if err != nil || !e.Empty || size > 0 && e.Fill != fill {
				t.Errorf("%d bytes of %#02x: %v, %v", size, fill, e, err)
			}
			if size <= wholeBelow && e.Read != size {
				t.Errorf("small device of %d bytes: %d read", size, e.Read)
			}
			if size > wholeBelow && e.Read > 20<<20 {
				t.Errorf("%d bytes of %d read", e.Read, size)
			}
		}
	}
}

func TestSampleSeesTheEdges(t *testing.T) {
	t.Parallel()
	const size = 8 << 30
	for _, at := range []int64{0, 1, 511, 1024, edge - 1, size - edge, size - 512, size - 1} {
		f := &filled{size: size, other: map[int64]byte{at: 1}}
		e, err := Sample(f, size)
		if err != nil || e.Empty || at > 0 && (e.Offset != at || e.Value != 1) {
			t.Errorf("byte %d: %v, %v", at, e, err)
		}
	}
}

// All bytes must have one value: a device that is half erased, half zeroed was in use.
func TestSampleWantsOneValue(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	e, err := Sample(&filled{size: size, other: map[int64]byte{size - 1: 0xff}}, size)
	if err != nil || e.Empty || e.Offset != size-1 || e.Value != 0xff {
		t.Errorf("zeros with an 0xff: %v, %v", e, err)
	}
	e, err = Sample(&filled{fill: 0xff, size: size, other: map[int64]byte{size - 1: 0}}, size)
	if err != nil || e.Empty || e.Fill != 0xff || e.Value != 0 {
		t.Errorf("0xff with a zero: %v, %v", e, err)
	}
	e, err = Sample(&filled{fill: 0x20, size: size}, size)
	if err != nil || e.Empty || e.Offset != 0 || e.Value != 0x20 {
		t.Errorf("blanks: %v, %v", e, err)
	}
}

// Data that covers a small part of the device is found, periodic or not.
func TestSampleSeesTheMiddle(t *testing.T) {
	t.Parallel()
	const size = 16 << 30
	// 1 % of the device in one piece: 164 MiB, with 16 MiB a step.
	f := &filled{size: size, from: 5 << 30, to: 5<<30 + size/100}
	if e, err := Sample(f, size); err != nil || e.Empty {
		t.Errorf("1 %% in one piece: %v, %v", e, err)
	}
	// Every second block, placed so that even steps could miss all of them.
	if e, err := Sample(&filled{size: size, every: 2 * sampleBlock}, size); err != nil || e.Empty {
		t.Errorf("every second block: %v, %v", e, err)
	}
}

func TestSampleFromLeavesOutTheStart(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	f := &filled{size: size, other: map[int64]byte{0: 'L', 1<<20 - 1: 3, 3 << 20: 4}}
	for _, c := range []struct {
		from  int64
		empty bool
		at    int64
	}{{0, false, 0}, {1 << 20, true, 0}, {3<<20 - 10, false, 3 << 20}, {3<<20 + 1, true, 0}, {size, true, 0}, {size - 100, true, 0}} {
		e, err := SampleFrom(f, c.from, size)
		if err != nil || e.Empty != c.empty || !c.empty && c.from > 0 && e.Offset != c.at {
			t.Errorf("from %d: %v, %v", c.from, e, err)
		}
	}
	if _, err := SampleFrom(f, -1, size); !errors.Is(err, ErrRange) {
		t.Errorf("from -1: %v", err)
	}
}

// A device that cannot be read is an error, not empty.
func TestSampleReadError(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	e, err := Sample(&filled{size: size, fail: size - 5}, size)
	if !errors.Is(err, unix.EIO) || e.Empty {
		t.Errorf("%v, %v", e, err)
	}
	e, err = Sample(&filled{size: 1 << 20}, 2<<20)
	if !errors.Is(err, io.ErrUnexpectedEOF) || e.Empty {
		t.Errorf("shorter than it says: %v, %v", e, err)
	}
}

func TestSampleIsRepeatable(t *testing.T) {
	t.Parallel()
	a, b := sampleRuns(0, 32<<30), sampleRuns(0, 32<<30)
	if len(a) < 2*samples-100 || len(a) != len(b) {
		t.Fatalf("%d and %d runs", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			t.Fatal("two runs differ")
		}
		if i > 0 && a[i][0] < a[i-1][0] {
			t.Fatal("not in ascending order")
		}
	}
}
