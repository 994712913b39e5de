// SPDX-License-Identifier: Apache-2.0

// Package luks2 reads, validates and writes the header of a LUKS2 container. It knows
// nothing about keys, ciphers or kernels: tokens, digests and requirements are generic
// here, and their meaning belongs to the caller.
//
// The reference is the LUKS2 On-Disk Format Specification 1.1. Where it leaves something
// open, cryptsetup 2.6.1 decides. Where cryptsetup is laxer than the specification or
// than a kernel tolerates (duplicate members, leading zeros, a sector size of 513·512),
// the header is refused: the bytes may come from an attacker's disk, and a reader that
// accepts what another one understands differently is how attackers get in. Each refusal
// names its [Rule].
//
// # Layout
//
// Two copies follow each other. Each is a binary header of 4096 bytes (big-endian) and an
// area of JSON text, terminated by a zero byte and padded with zeros. The size of a copy
// is one of 16 KiB, 32 KiB … 4 MiB, so the second copy is at one of nine known offsets
// and is found even if the first is damaged. Behind the copies comes the keyslots area,
// of which this package knows only the bounds.
//
// # Which copy counts
//
// A copy is good if its checksum matches and its content is valid. Of two good copies the
// one with the higher sequence number counts and the other is "older". Two copies with
// the same number and different content cannot come from an interrupted write; the first
// one counts, as in cryptsetup, and [Copies.Conflict] is set. Two copies of different
// volumes are refused, and so is a copy with a matching checksum, a higher number and
// invalid content: no accident writes that.
//
// # Writing
//
// There is a good copy at every moment of a write; see [Header.Write]. Wherever power is
// cut, a reader sees only what the header said before or what it says after. The
// package's tests enumerate the cases.
package luks2
