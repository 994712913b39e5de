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

// confirm asks for the volume's name to be typed before something is destroyed.
// Without a terminal it never waits, and fails unless yes is set.
func (a *app) confirm(name, what string, yes bool) error {
	if yes {
		return nil
	}
	needs := func() error {
		return fault.New(fault.ConfirmationNeeds, fmt.Sprintf("%s %s: not confirmed", what, name), nil)
	}
	if typed, ok := a.ask(fmt.Sprintf("%s %s. Type the volume's name to continue: ", what, name)); !ok || typed != name {
		return needs()
	}
	return nil
}

// ask reads a line from the terminal; ok is false if there is no terminal or no answer.
func (a *app) ask(prompt string) (typed string, ok bool) {
	f, ok := a.stdin.(*os.File)
	if !ok {
		return "", false
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return "", false
	}
	fmt.Fprint(a.stderr, prompt)
	line, err := bufio.NewReader(f).ReadString('\n')
	return strings.TrimSpace(line), err == nil
}
