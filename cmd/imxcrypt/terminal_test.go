// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal opens the end of a pseudoterminal that programs write to.
func openTerminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("NOT TESTED: no pseudoterminal: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("NOT TESTED: no pseudoterminal: %v", err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return terminal
}

// Only terminals get colours and widths.
func TestColoursAreForTerminals(t *testing.T) {
	t.Parallel()
	terminal := openTerminal(t)
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	xterm := map[string]string{"TERM": "xterm"}
	for name, c := range map[string]struct {
		out  io.Writer
		env  map[string]string
		want bool
	}{
		"a terminal":                 {terminal, xterm, true},
		"NO_COLOR":                   {terminal, map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, false},
		"an empty NO_COLOR":          {terminal, map[string]string{"TERM": "xterm", "NO_COLOR": ""}, true},
		"a terminal without colours": {terminal, map[string]string{"TERM": "dumb"}, false},
		"a terminal of unknown kind": {terminal, nil, false},
		"a file":                     {file, xterm, false},
		"something that is no file":  {&bytes.Buffer{}, xterm, false},
	} {
		a := &app{stdout: c.out, getenv: func(name string) string { return c.env[name] }}
		if got := a.colour(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, c := range []struct {
		col  uint16
		want int
	}{{132, 132}, {60, 60}, {0, 80}, {20, 80}} {
		if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: c.col}); err != nil {
			t.Fatal(err)
		}
		if got := (&app{stdout: terminal}).columns(); got != c.want {
			t.Errorf("a terminal of %d columns: %d", c.col, got)
		}
	}
	if got := (&app{stdout: terminal, wide: true}).columns(); got != math.MaxInt {
		t.Errorf("--wide: %d", got)
	}
	if got := (&app{stdout: file}).columns(); got != math.MaxInt {
		t.Errorf("a file: %d", got)
	}
}
