// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// confirm has a person type the volume's name before something is destroyed.
// Without a terminal it never waits: only yes helps then.
func (a *app) confirm(name, what string, yes bool) error {
	if yes {
		return nil
	}
	needs := func() error {
		return fault.New(fault.ConfirmationNeeds, fmt.Sprintf("%s %s: not confirmed", what, name), nil)
	}
	f, ok := a.stdin.(*os.File)
	if !ok {
		return needs()
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return needs()
	}
	fmt.Fprintf(a.stderr, "%s %s. Type the volume's name to go on: ", what, name)
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != name {
		return needs()
	}
	return nil
}
