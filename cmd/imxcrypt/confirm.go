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

// confirm asks for the volume's name to be typed before a command destroys something; loss
// says what. Without a terminal it never waits, and fails unless yes is set.
func (a *app) confirm(command, name, loss string, yes bool) error {
	if yes {
		return nil
	}
	if typed, ok := a.ask(fmt.Sprintf("%s: %s %s. Type the volume's name to continue: ", loss, command, name)); !ok || typed != name {
		return fault.Newf(fault.ConfirmationNeeds, "%s %s: not confirmed, so nothing was changed: %s", command, name, loss)
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
