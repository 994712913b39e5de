// SPDX-License-Identifier: Apache-2.0

package blank_test

import (
	"bytes"
	"testing"

	"imxcrypt/internal/blank"
)

func TestBlank(t *testing.T) {
	for name, c := range map[string]struct {
		b            []byte
		zero, erased bool
	}{
		"nothing":     {nil, true, true},
		"zeros":       {make([]byte, 4096), true, true},
		"a zero":      {[]byte{0}, true, true},
		"ones":        {bytes.Repeat([]byte{0xff}, 513), false, true},
		"another":     {bytes.Repeat([]byte{7}, 512), false, false},
		"the last":    {append(make([]byte, 511), 1), false, false},
		"the first":   {append([]byte{1}, make([]byte, 511)...), false, false},
		"both":        {append(make([]byte, 8), 0xff, 0xff), false, false},
		"one in many": {append(append(make([]byte, 100), 9), make([]byte, 100)...), false, false},
	} {
		if z, e := blank.Zero(c.b), blank.Erased(c.b); z != c.zero || e != c.erased {
			t.Errorf("%s: zero %v, erased %v", name, z, e)
		}
	}
}
