// SPDX-License-Identifier: Apache-2.0

// Package earlystack grows the main goroutine's stack to the size that opening a volume
// needs, before anything else is initialised. Programs import it only for this effect.
//
// The runtime grows a stack by doubling it: it copies the stack frame by frame and looks
// up each function in tables that make up a quarter of the program's file. The
// initialisers of other packages, regular expressions among them, would make it do so
// twice, and opening a volume twice more, each time with other functions and therefore
// other pages of these tables. Here the stack is nearly empty.
//
// Go initialises packages that are ready in the order of their import paths. This package
// imports nothing, and its path sorts before the standard library's internal packages, so
// it comes before all packages that need a deep stack.
package earlystack

// This init has no visible effect.
func init() { grow(0) }

const room = 24 << 10 // bytes; the stack becomes 32 KiB

// grow has a stack frame of that size, which it does not use. Call it with 0.
//
//go:noinline
func grow(n int) int {
	if n > 0 {
		var b [room]byte
		return fill(b[:], n)
	}
	return n
}

//go:noinline
func fill(b []byte, n int) int {
	for i := range b {
		b[i] = byte(n)
	}
	return len(b)
}
