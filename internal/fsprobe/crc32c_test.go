// SPDX-License-Identifier: Apache-2.0

package fsprobe

import (
	"hash/crc32"
	"testing"
)

func TestCRC32CIsCastagnolis(t *testing.T) {
	t.Parallel()
	// The check value that catalogues of CRCs give.
	if got := crc32c(0, []byte("123456789")); got != 0xe3069283 {
		t.Errorf("%#08x", got)
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	b := make([]byte, 1027)
	for i := range b {
		b[i] = byte(i*i + i>>3)
	}
	for n := range b {
		begun := uint32(n) * 0x9e3779b9
		if got, want := crc32c(begun, b[:n]), crc32.Update(begun, table, b[:n]); got != want {
			t.Fatalf("%d bytes after %#08x: %#08x, want %#08x", n, begun, got, want)
		}
	}
}
