// SPDX-License-Identifier: Apache-2.0

// Package earlystack grows the main goroutine's stack to what opening a volume needs,
// before anything else is initialised. A program imports it for that alone.
//
// The runtime grows a stack by doubling it: it copies the stack frame by frame and
// looks each function up in tables that take a quarter of the program's file. The
// initialisers of other packages, regular expressions among them, have it do so twice,
// and opening a volume twice more, each time with other functions and so with other
// pages of these tables. Here the stack is nearly empty.
//
// Go initialises what is ready in the order of import paths: a package that imports
// nothing, and whose path sorts before the standard library's internal packages, comes
// before all that are deep.
package earlystack

// Nothing can see what this init does.
func init() { grow(0) }

const room = 24 << 10 // bytes; the stack becomes 32 KiB

// grow has a frame with that room, which is not used. Call it with 0.
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
