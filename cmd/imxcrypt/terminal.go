// SPDX-License-Identifier: Apache-2.0

package main

import (
	"golang.org/x/sys/unix"
)

// colour reports whether output to stdout may have colours: stdout is a terminal that
// can show them, and NO_COLOR is not set (https://no-color.org).
func (a *app) colour() bool {
	f, ok := fileOf(a.stdout)
	if !ok || a.getenv("NO_COLOR") != "" || a.getenv("TERM") == "dumb" || a.getenv("TERM") == "" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
