// SPDX-License-Identifier: Apache-2.0

// What the runtime would do at each start for programs that live long: read the
// cgroup's limit of processors from files, look again whether it has changed, and
// name its mappings. A boot is over before any of it is of use.

//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
//go:debug decoratemappings=0

// Imxcrypt manages the keys of encrypted volumes on NXP i.MX.
package main

import "os"

// version is set by the linker from the tag the program was built at.
var version = "unknown"

func main() {
	crashBySignal()
	growStack(0)
	args := asGenerator(os.Args)
	os.Exit(run(interruptible(args), args, os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}

// growStack grows the main goroutine's stack to what opening a volume needs while
// it is nearly empty. Otherwise the runtime doubles it four times and copies it,
// frame by frame, each time. Call it with 0.
//
//go:noinline
func growStack(n int) int {
	if n > 0 {
		var room [stackRoom]byte
		return fill(room[:], n)
	}
	return n
}

const stackRoom = 24 << 10 // bytes; the stack becomes 32 KiB

//go:noinline
func fill(b []byte, n int) int {
	for i := range b {
		b[i] = byte(n)
	}
	return len(b)
}
