// SPDX-License-Identifier: Apache-2.0

package program

import "strings"

// tail is an io.Writer that keeps the last maxOutput bytes.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > maxOutput {
		p = p[len(p)-maxOutput:]
	}
	if over := len(t.buf) + len(p) - maxOutput; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// LastLines are the last n lines that say something, joined by " / ", made fit
// for a message: what cannot be printed is left out.
func LastLines(output []byte, n int) string {
	var lines []string
	for _, l := range strings.FieldsFunc(string(output), func(r rune) bool { return r == '\n' || r == '\r' }) {
		l = strings.TrimSpace(strings.Map(printable, l))
		if l != "" {
			lines = append(lines, l)
		}
	}
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, " / ")
}

// printable drops control characters, backspaces of progress bars above all.
func printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case r < ' ' || r == 0x7f || r == '\uFFFD' || r >= 0x80 && r < 0xa0:
		return -1
	}
	return r
}
