// SPDX-License-Identifier: Apache-2.0

package fsprobe

import "math/bits"

// The constants of xxHash, from its specification (XXH64).
const (
	xxPrime1 = 0x9E3779B185EBCA87
	xxPrime2 = 0xC2B2AE3D27D4EB4F
	xxPrime3 = 0x165667B19E3779F9
	xxPrime4 = 0x85EBCA77C2B2AE63
	xxPrime5 = 0x27D4EB2F165667C5
)

// xxhash64 is XXH64 with seed 0, as btrfs uses it.
func xxhash64(b []byte) uint64 {
	h := uint64(xxPrime5)
	n := uint64(len(b))
	if len(b) >= 32 {
		var seed uint64
		acc := [4]uint64{seed + xxPrime1, seed, seed, seed}
		acc[0] += xxPrime2
		acc[1] += xxPrime2
		acc[3] -= xxPrime1
		for ; len(b) >= 32; b = b[32:] {
			for i := range acc {
				acc[i] = xxRound(acc[i], le.Uint64(b[8*i:]))
			}
		}
		h = bits.RotateLeft64(acc[0], 1) + bits.RotateLeft64(acc[1], 7) +
			bits.RotateLeft64(acc[2], 12) + bits.RotateLeft64(acc[3], 18)
		for _, a := range acc {
			h = (h^xxRound(0, a))*xxPrime1 + xxPrime4
		}
	}
	h += n
	for ; len(b) >= 8; b = b[8:] {
		h = bits.RotateLeft64(h^xxRound(0, le.Uint64(b)), 27)*xxPrime1 + xxPrime4
	}
	if len(b) >= 4 {
		h = bits.RotateLeft64(h^uint64(le.Uint32(b))*xxPrime1, 23)*xxPrime2 + xxPrime3
		b = b[4:]
	}
	for _, c := range b {
		h = bits.RotateLeft64(h^uint64(c)*xxPrime5, 11) * xxPrime1
	}
	h = (h ^ h>>33) * xxPrime2
	h = (h ^ h>>29) * xxPrime3
	return h ^ h>>32
}

func xxRound(acc, lane uint64) uint64 {
	return bits.RotateLeft64(acc+lane*xxPrime2, 31) * xxPrime1
}
