// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTracesTellWhoseHeaderItWas(t *testing.T) {
	t.Parallel()
	first := Trace{Offset: 0, UUID: testUUID, Label: "data", Subsystem: "imxcrypt"}
	second := first
	second.Offset = DefaultCopySize
	for _, tc := range []struct {
		name  string
		spoil func(m *memory)
		want  []Trace
	}{
		{"intact", func(*memory) {}, []Trace{first, second}},
		{"both texts damaged", func(m *memory) { m.data[0x1001] ^= 1; m.data[0x5001] ^= 1 }, []Trace{first, second}},
		{"of a version to come", func(m *memory) { binary.BigEndian.PutUint16(m.data[offVersion:], 3) }, []Trace{first, second}},
		{"first copy gone", func(m *memory) { clear(m.data[:DefaultCopySize]) }, []Trace{second}},
		{"text field without end", func(m *memory) { fillBytes(m.data[offLabel:offLabel+lenLabel], 'x') },
			[]Trace{{UUID: testUUID, Label: filler48('x'), Subsystem: "imxcrypt"}, second}},
		{"nothing", func(m *memory) { clear(m.data) }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := formatted(t, newHeader(t))
			tc.spoil(m)
			got, err := Traces(m, m.Size())
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%v, %+v", err, got)
			}
		})
	}
	if got, err := Traces(newMemory(100), 100); got != nil || err != nil {
		t.Errorf("a tiny device: %v, %v", got, err)
	}
	broken := &faulty{memory: formatted(t, newHeader(t)), from: DefaultCopySize, to: DefaultCopySize + 512}
	if got, err := Traces(broken, broken.Size()); !errors.Is(err, unix.EIO) || len(got) != 1 {
		t.Errorf("an unreadable second copy: %v, %v", got, err)
	}
}

func filler48(c byte) string {
	b := make([]byte, lenLabel)
	fillBytes(b, c)
	return string(b)
}
