// SPDX-License-Identifier: Apache-2.0

// Imxcrypt manages the keys of encrypted volumes on NXP i.MX.
package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// version is set by the linker from the tag the program was built at.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	code := run(ctx, asGenerator(os.Args), os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	stop()
	os.Exit(code)
}
