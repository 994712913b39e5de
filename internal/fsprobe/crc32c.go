// SPDX-License-Identifier: Apache-2.0

package fsprobe

import "hash/crc32"

// crc32c continues a CRC-32C with b. The table is made at the first use, not at
// each start of the program.
func crc32c(sum uint32, b []byte) uint32 {
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b)
}
