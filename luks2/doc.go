// SPDX-License-Identifier: Apache-2.0

// Package luks2 reads, validates and writes the header of a LUKS2 container. It
// knows nothing of keys, ciphers or kernels: tokens, digests and requirements
// are generic here, their meaning belongs to the caller.
//
// The source is the LUKS2 On-Disk Format Specification 1.1. Where it leaves
// something open, cryptsetup 2.6.1 decides; where cryptsetup is laxer than the
// specification or than a kernel can bear (duplicate members, leading zeros,
// a sector size of 513·512), the header is refused: the bytes may come from an
// attacker's disk, and a reader that accepts what another one understands
// differently is how they get in. Each refusal names its [Rule].
//
// # Layout
//
// Two copies lie one behind the other, each a binary header of 4096 bytes
// (big-endian) and an area of JSON text, terminated by a zero byte and padded
// with zeros. One copy has one of the sizes 16 KiB, 32 KiB … 4 MiB, so the
// second one lies at one of nine known offsets and is found when the first is
// damaged. Behind them comes the keyslots area, of which this package knows
// the bounds only.
//
// # Which copy holds
//
// A copy is good when its checksum fits and its content is valid. Of two good
// ones that with the higher sequence number holds and the other is "older". Two
// with the same number and different content cannot come from an interrupted
// write; the first one holds, as in cryptsetup, and [Copies.Conflict] says so.
// Two copies of different volumes, or a copy with a right checksum, a
// higher number and a content that is not valid, are refused: no accident
// writes that.
//
// # Writing
//
// At no moment of a write is there no good copy: see [Header.Write]. What the
// header says before and after is all a reader can ever see, wherever the power
// goes; the package's tests enumerate that.
package luks2
