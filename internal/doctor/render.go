// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Terminal colours (ECMA-48 SGR).
const (
	red, yellow, green, plain = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"
)

const (
	width  = 80
	indent = 25 // columns before the text: level, check
)

// Write prints the report for people, 80 columns wide.
func (r Report) Write(w io.Writer, colour bool) error {
	var b strings.Builder
	for _, c := range r.Checks {
		level := fmt.Sprintf("%-7s", c.Level)
		if colour {
			level = map[Level]string{OK: green, Warning: yellow, Problem: red}[c.Level] + level + plain
		}
		name := fmt.Sprintf("%-15s", c.Name)
		text := wrap(c.Text, width-indent)
		fmt.Fprintf(&b, "%s  %s", level, name)
		if utf8.RuneCountInString(c.Name) > 15 {
			// A long name gets its own line.
			fmt.Fprintf(&b, "\n%s", strings.Repeat(" ", indent-1))
		}
		b.WriteByte(' ')
		b.WriteString(strings.Join(text, "\n"+strings.Repeat(" ", indent)) + "\n")
		if c.Remedy != "" {
			lines := wrap(c.Remedy, width-indent-3)
			fmt.Fprintf(&b, "%s-> %s\n", strings.Repeat(" ", indent), strings.Join(lines, "\n"+strings.Repeat(" ", indent+3)))
		}
	}
	fmt.Fprintf(&b, "%s, %s, %s\n", count(len(r.Checks), "check"), count(r.Problems, "problem"), count(r.Warnings, "warning"))
	_, err := io.WriteString(w, b.String())
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// wrap breaks text between words; a word longer than a line stays whole.
func wrap(text string, columns int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
