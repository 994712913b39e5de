// SPDX-License-Identifier: Apache-2.0

package fsprobe

// crc32c goes on with a CRC-32C (Castagnoli's polynomial, reflected; RFC 3720,
// appendix B.4) over b, inverted before and after, as [crc32.Update] does with
// that polynomial.
//
// Of hash/crc32 the first use computes tables of some kilobytes, which at boot
// takes longer than all that is done with them: on amd64 more instructions than
// opening the key and loading the table together. Superblocks are short.
func crc32c(sum uint32, b []byte) uint32 {
	sum = ^sum
	for _, c := range b {
		sum ^= uint32(c)
		sum = sum>>4 ^ crc32cNibble[sum&15]
		sum = sum>>4 ^ crc32cNibble[sum&15]
	}
	return ^sum
}

// crc32cNibble is what four bits of the remainder become.
var crc32cNibble = [16]uint32{
	0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
	0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
	0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
	0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
}
