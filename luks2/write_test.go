// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"reflect"
	"testing"
)

func TestFormatThenReadGivesTheSameHeader(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	m := formatted(t, h)
	got, copies, err := Read(m, m.Size())
	if err != nil {
		t.Fatal(err)
	}
	if !copies.Intact() {
		t.Errorf("copies after Format: %+v", copies)
	}
	h.data = got.data
	if !reflect.DeepEqual(got, h) {
		t.Errorf("read %+v\nwrote %+v", got, h)
	}
}
