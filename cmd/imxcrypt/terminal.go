// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// colour tells whether stdout is for colours: a terminal that can show them, and
// nobody asked for none (https://no-color.org).
func (a *app) colour() bool {
	f, ok := a.stdout.(*os.File)
	if !ok || a.getenv("NO_COLOR") != "" || a.getenv("TERM") == "dumb" || a.getenv("TERM") == "" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
