// SPDX-License-Identifier: Apache-2.0

// Package blank recognises storage that holds nothing.
package blank

import "bytes"

// Zero reports whether there is nothing but zeros in b.
func Zero(b []byte) bool { return Filled(b, 0x00) }

// Erased reports whether b looks unwritten since its storage was made or erased: it is
// all 0x00, or all 0xFF.
func Erased(b []byte) bool { return Filled(b, 0x00) || Filled(b, 0xff) }

// Filled reports whether every byte of b is v; it is true for an empty b. Comparing b
// with itself, shifted by one byte, runs at the speed of memory.
func Filled(b []byte, v byte) bool {
	return len(b) == 0 || b[0] == v && bytes.Equal(b[1:], b[:len(b)-1])
}
