// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
)

// memory is a device that is cut off after a number of writes.
type memory struct {
	Device
	b    []byte
	left int
}

func (m *memory) Path() string                            { return "/dev/memory" }
func (m *memory) Size() int64                             { return int64(len(m.b)) }
func (m *memory) Flush() error                            { return nil }
func (m *memory) ReadAt(p []byte, off int64) (int, error) { return copy(p, m.b[off:]), nil }
func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if m.left--; m.left < 0 {
		return 0, errors.New("cut off")
	}
	return copy(m.b[off:], p), nil
}

// Whatever part of the header is on the device, the sectors that identify a filesystem are
// the header's: the first one, and the one at 1024 unless nothing but the first is there.
// Next comes the first copy. Until the whole header is there a record says so. Afterwards
// there is no record, so that none applies to whatever the device is used for later.
func TestFinishGoesOver(t *testing.T) {
	t.Parallel()
	const area, copySize = 64 * KiB, MetadataSize / 2
	plain, head := bytes.Repeat([]byte("filesystem!!"), int(area)), bytes.Repeat([]byte("header"), int(area))[:area]
	for writes := 0; ; writes++ {
		d := &memory{b: bytes.Clone(plain[:8*area]), left: 1}
		s := PlanStart(d.Size(), area)
		copy(d.b[s.Saved:], d.b[:area])
		copy(d.b[s.Staged:], head)
		if err := s.Begin(d); err != nil {
			t.Fatal(err)
		}
		d.left = writes
		err := s.Finish(d)
		found, state, findErr := FindStart(d)
		if findErr != nil {
			t.Fatal(findErr)
		}
		whole := bytes.Equal(d.b[:area], head)
		switch {
		case whole != (state == StartNone):
			t.Errorf("%d writes: state %v, the header is whole: %v", writes, state, whole)
		case writes > 0 && !bytes.Equal(d.b[:SectorBytes], head[:SectorBytes]):
			t.Errorf("%d writes: the first sector is the filesystem's", writes)
		case writes > 1 && !bytes.Equal(d.b[2*SectorBytes:3*SectorBytes], head[2*SectorBytes:3*SectorBytes]):
			t.Errorf("%d writes: the sector at 1024 is the filesystem's", writes)
		case writes < 3 && !bytes.Equal(d.b[3*SectorBytes:area], plain[3*SectorBytes:area]):
			t.Errorf("%d writes: more is the header's than the sectors that identify a filesystem", writes)
		case writes > 2 && !bytes.Equal(d.b[:copySize], head[:copySize]):
			t.Errorf("%d writes: the first copy is not there", writes)
		}
		if err == nil {
			if _, ok := parseStart(d.b[s.Record:], d.Size()); ok || !whole {
				t.Errorf("whole: %v, a record is left: %v", whole, ok)
			}
			// The filesystem is put back by other means.
			copy(d.b, plain[:area])
			if _, state, err := FindStart(d); state != StartNone || err != nil {
				t.Errorf("put back: state %v, %v", state, err)
			}
			return
		}
		if state == StartBegun {
			d.left = 6
			if err := found.Finish(d); err != nil || !bytes.Equal(d.b[:area], head) {
				t.Errorf("%d writes, then the rest: %v", writes, err)
			}
		}
	}
}

// The way back is over once everything is put back, whatever a cut leaves of it and
// whatever is written to the filesystem afterwards. Until then a record says what is
// missing. What identifies the filesystem comes last.
func TestFinishGoesBack(t *testing.T) {
	t.Parallel()
	const area = 64 * KiB
	plain, head := bytes.Repeat([]byte("filesystem!!"), int(area))[:8*area], bytes.Repeat([]byte("header"), int(area))[:area]
	for writes := 0; ; writes++ {
		d := &memory{b: bytes.Clone(plain), left: 1}
		s := PlanBack(d.Size(), area, PlanStart(d.Size(), area).Saved-BlockAlign)
		copy(d.b[s.Saved:], d.b[:area])
		copy(d.b[s.Staged:], head)
		copy(d.b, head)
		if err := s.Begin(d); err != nil {
			t.Fatal(err)
		}
		if err := PlanStart(d.Size(), area).Begin(d); err == nil {
			t.Fatal("begun with a header at the start")
		}
		d.left = writes
		err := s.Finish(d)
		found, state, findErr := FindStart(d)
		if findErr != nil {
			t.Fatal(findErr)
		}
		whole := bytes.Equal(d.b[:area], plain[:area])
		if whole != (state == StartNone) || state == StartBegun && (!found.Back || found.Saved != s.Saved) {
			t.Errorf("%d writes: state %v of %+v, all put back: %v", writes, state, found, whole)
		}
		if !whole && bytes.Equal(d.b[:BlockAlign], plain[:BlockAlign]) {
			t.Errorf("%d writes: the superblock is there before the rest", writes)
		}
		if whole {
			// In use, with the record still there.
			d.b[5*SectorBytes]++
			if _, state, err := FindStart(d); state != StartNone || err != nil {
				t.Errorf("%d writes, in use: state %v, %v", writes, state, err)
			}
		}
		if err == nil {
			if _, ok := parseStart(d.b[s.Record:], d.Size()); ok || !whole {
				t.Errorf("whole: %v, a record is left: %v", whole, ok)
			}
			return
		}
		if state != StartBegun {
			continue
		}
		mixed := &memory{b: bytes.Clone(d.b)}
		mixed.b[5*SectorBytes] ^= 0x55
		if _, state, err := FindStart(mixed); state != StartMixed || err != nil {
			t.Errorf("%d writes, and something else: state %v, %v", writes, state, err)
		}
		d.left = 7
		if err := found.Finish(d); err != nil || !bytes.Equal(d.b[:area], plain[:area]) {
			t.Errorf("%d writes, then the rest: %v", writes, err)
		}
	}
}

// Whatever a device ends with, a record is accepted only if its places are on the device
// and do not overlap.
func FuzzParseStart(f *testing.F) {
	const size = 64 * MiB
	for _, s := range []Start{PlanStart(size, MiB), PlanBack(size, MiB, 40*MiB)} {
		f.Add(s.block(), int64(size))
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if len(b) != BlockAlign || size < BlockAlign {
			return
		}
		sum := sha256.Sum256(b[:eraseSumOffset])
		copy(b[eraseSumOffset:], sum[:])
		s, ok := parseStart(b, size)
		if ok && (s.Staged < s.Area || s.Saved < s.Staged+s.Area || s.Record < s.Saved+s.Area || s.Record+BlockAlign > size) {
			t.Fatalf("%+v on %d bytes", s, size)
		}
	})
}
