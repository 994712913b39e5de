// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"math"
	"testing"
)

// A backup replaces a header whose number cannot grow: the numbers start again, and
// wherever that is interrupted, a reader finds one or the other.
func TestRestoreOverTheLastSequenceNumber(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	m := formatted(t, h)
	backup := h.Clone()
	last := h.Clone()
	last.SeqID = math.MaxUint64 - 1
	if err := last.Restore(m); err != nil || last.SeqID != math.MaxUint64 {
		t.Fatalf("%d, %v", last.SeqID, err)
	}
	if err := last.Room(1); err == nil {
		t.Error("there is room for one more")
	}
	if err := backup.Restore(m); err != nil {
		t.Fatal(err)
	}
	got, copies, err := Read(m, m.Size())
	if err != nil || got.SeqID != 1 || !copies.Intact() {
		t.Fatalf("sequence number %d, %+v, %v", got.SeqID, copies, err)
	}
	if err := got.Write(m); err != nil {
		t.Error(err)
	}
	if err := got.Room(1 << 32); err != nil {
		t.Error(err)
	}
}
