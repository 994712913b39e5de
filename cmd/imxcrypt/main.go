// SPDX-License-Identifier: Apache-2.0

// What the runtime would do for programs that live long: look again and again whether
// the cgroup's limit of processors has changed, and name its mappings. A boot is over
// before any of it is of use.

//go:debug updatemaxprocs=0
//go:debug decoratemappings=0

// Imxcrypt manages the keys of encrypted volumes on NXP i.MX.
package main

import (
	"os"

	_ "imxcrypt/internal/earlystack"
)

// version is set by the linker from the tag the program was built at.
var version = "unknown"

func main() {
	crashBySignal()
	args := asGenerator(os.Args)
	os.Exit(run(interruptible(args), args, os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}
