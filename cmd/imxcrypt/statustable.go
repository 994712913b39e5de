// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

// Colours of a terminal (ECMA-48 SGR).
const (
	sgrRed, sgrYellow, sgrGreen, sgrPlain = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"
)

// column is a column of the table.
type column struct {
	head  string
	least int // the fewest characters it may be shortened to; 0: it may not be
	cells []string
}

func (c column) width() int {
	w := len(c.head)
	for _, s := range c.cells {
		w = max(w, utf8.RuneCountInString(s))
	}
	return w
}

// printStatusTable prints the table to stdout, and what is wrong to stderr.
func (a *app) printStatusTable(all []volumeStatus) error {
	if err := writeTable(a.stdout, all, a.columns(), a.colour()); err != nil {
		return err
	}
	for _, s := range all {
		a.printRecovery(s.Status)
		if s.leftOut {
			fmt.Fprintf(a.stderr, "%simxcrypt: %s\n", a.priority(priorityWarning), leftOutText(s.Name))
		}
		if f := s.LastFailure; f != nil && fault.CodeOf(s.Problem()) != f.Code {
			p := a.failureOf(s)
			a.printProblem(fmt.Sprintf("%s (at %s)", p.Message, f.At.Format(time.RFC3339)), p.Hint)
		}
		for _, w := range s.Warnings {
			fmt.Fprintf(a.stderr, "%simxcrypt: %s: %s\n", a.priority(priorityWarning), s.Name, w)
			fmt.Fprintf(a.stderr, "%s  hint: %s\n", a.priority(priorityWarning), a.hintFor(s.Name, w))
		}
		if err := s.wrong(); err != nil {
			a.printProblem(oneLine(err.Error()), a.hintFor(s.Name, err))
		}
	}
	return nil
}

// printProblem writes what is wrong and what to do.
func (a *app) printProblem(text, hint string) {
	fmt.Fprintf(a.stderr, "%simxcrypt: %s\n", a.priority(priorityError), text)
	if hint != "" {
		fmt.Fprintf(a.stderr, "%s  hint: %s\n", a.priority(priorityError), hint)
	}
}

// columns returns the width of stdout: the terminal's, or 80 if the terminal does not
// give it. If stdout is not a terminal the width is unlimited: names are not shortened
// for programs.
func (a *app) columns() int {
	f, ok := fileOf(a.stdout)
	if !ok || a.wide {
		return math.MaxInt
	}
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	switch {
	case err != nil:
		return math.MaxInt
	case ws.Col >= 40:
		return int(ws.Col)
	}
	return 80
}

func writeTable(w io.Writer, all []volumeStatus, columns int, colour bool) error {
	table := []*column{
		// The least widths leave room for "unprovisioned", "99→100 100%", "trusted",
		// "unknown" and "10239 GiB".
		{head: "NAME", least: 6}, {head: "STATE"}, {head: "GEN"}, {head: "SOURCE"}, {head: "CHIP"}, {head: "SIZE"},
		{head: "DEVICE", least: 6}, {head: "MOUNT", least: 6},
	}
	for _, s := range all {
		for i, cell := range []string{s.Name, string(s.State), generation(s), or(s.Source), or(s.SecurityState), size(s.Size), s.Device, or(s.MountPath)} {
			table[i].cells = append(table[i].cells, cell)
		}
	}
	widths := fit(table, columns)
	var b strings.Builder
	for row := -1; row < len(all); row++ {
		for i, c := range table {
			cell := c.head
			if row >= 0 {
				cell = middle(c.cells[row], widths[i])
			}
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			if i == len(table)-1 {
				padding = ""
			}
			if colour && row >= 0 && c.head == "STATE" {
				cell = stateColour(all[row]) + cell + sgrPlain
			}
			b.WriteString(cell + padding)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fit repeatedly shortens the widest column that may be shortened, until all fit.
func fit(table []*column, columns int) []int {
	widths := make([]int, len(table))
	total := 2 * (len(table) - 1)
	for i, c := range table {
		widths[i] = c.width()
		total += widths[i]
	}
	for ; total > columns; total-- {
		widest := -1
		for i, c := range table {
			if c.least > 0 && widths[i] > c.least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

// middle shortens a text in its middle, because names and paths differ at either end.
func middle(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	front := (width - 1) / 2
	return string(r[:front]) + "…" + string(r[len(r)-(width-1-front):])
}

func stateColour(s volumeStatus) string {
	switch {
	case s.wrong() != nil:
		return sgrRed
	case s.Up():
		return sgrGreen
	}
	return sgrYellow
}

// generation shows the key's generation; while the volume is rotated, with the new key's
// and the progress.
func generation(s volumeStatus) string {
	switch {
	case s.Phase == "encrypting" || s.Phase == "decrypting":
		return fmt.Sprintf("%s %d%%", s.Phase, percent(s.Rotation))
	case s.Rotation != nil:
		return fmt.Sprintf("%d→%d %d%%", s.Generation, s.Rotation.Generation, percent(s.Rotation))
	case s.Generation > 0:
		return fmt.Sprint(s.Generation)
	}
	return "-"
}

func percent(r *volume.Rotation) int64 {
	if r.Total <= 0 {
		return 0
	}
	return int64(100 * (float64(r.Done) / float64(r.Total)))
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// size formats a number of bytes for people.
func size(n int64) string {
	switch {
	case n == 0:
		return "-"
	case n >= 10<<40:
		return fmt.Sprintf("%d TiB", n>>40)
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
