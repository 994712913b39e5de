// SPDX-License-Identifier: Apache-2.0

package fsprobe

import "testing"

func TestCRC32CIsCastagnolis(t *testing.T) {
	t.Parallel()
	// The check value that catalogues of CRCs give.
	if got := crc32c(0, []byte("123456789")); got != 0xe3069283 {
		t.Errorf("%#08x", got)
	}
	if got := crc32c(crc32c(0, []byte("1234")), []byte("56789")); got != 0xe3069283 {
		t.Errorf("in two steps: %#08x", got)
	}
}
