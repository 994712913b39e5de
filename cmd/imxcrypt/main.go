// SPDX-License-Identifier: Apache-2.0

// Both settings turn off what helps only long-lived programs: checking repeatedly whether
// the cgroup's CPU limit has changed, and naming the runtime's mappings. A boot ends
// before either is of use.

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
