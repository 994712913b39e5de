// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"errors"
	"testing"
)

// memory is a device that is cut off after so many writes.
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

// As soon as anything of the header is on the device its first copy is, and so the
// filesystem's superblock is gone; until all of it is there a record says so, and none
// afterwards, so that nothing is said of what somebody makes of the device later.
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
		case writes > 0 && !bytes.Equal(d.b[:copySize], head[:copySize]):
			t.Errorf("%d writes: the first copy is not there", writes)
		}
		if err == nil {
			if _, ok := parseStart(d.b[s.Record:], d.Size()); ok || !whole {
				t.Errorf("whole: %v, a record is left: %v", whole, ok)
			}
			// The filesystem is put back, by whoever knows how.
			copy(d.b, plain[:area])
			if _, state, err := FindStart(d); state != StartNone || err != nil {
				t.Errorf("put back: state %v, %v", state, err)
			}
			return
		}
		if state == StartBegun {
			d.left = 4
			if err := found.Finish(d); err != nil || !bytes.Equal(d.b[:area], head) {
				t.Errorf("%d writes, then the rest: %v", writes, err)
			}
		}
	}
}
