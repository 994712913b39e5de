// SPDX-License-Identifier: Apache-2.0

//go:build race

package crashtest

// RaceDetector reports whether the race detector is on. It makes these tests ten times as
// slow. It looks for races, not for crash states, so it gets a slice of them; make unit
// runs the packages that use it without it too.
const RaceDetector = true

// transfer is copy. Half of the time under the race detector was spent on tracking every
// byte of every sector. Here the detector sees only the first byte of each.
func transfer(dst, src []byte) int {
	n := min(len(dst), len(src))
	dst, src = dst[:n], src[:n]
	for len(dst) >= sector {
		dst[0] = src[0]
		copySector((*[sector]byte)(dst), (*[sector]byte)(src))
		dst, src = dst[sector:], src[sector:]
	}
	copy(dst, src)
	return n
}

//go:norace
func copySector(dst, src *[sector]byte) { *dst = *src }
