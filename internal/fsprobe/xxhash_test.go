// SPDX-License-Identifier: Apache-2.0

package fsprobe

import "testing"

// The expected values are those of the reference implementation.
func TestXXHash64(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{
		"":    0xef46db3751d8e999,
		"a":   0xd24ec4f1a98c6e5b,
		"abc": 0x44bc2cf5ad770999,
		"Nobody inspects the spammish repetition": 0xfbcea83c8a378bf1,
	} {
		if got := xxhash64([]byte(text)); got != want {
			t.Errorf("xxhash64(%q) = %#016x, want %#016x", text, got, want)
		}
	}
}
