// SPDX-License-Identifier: Apache-2.0

package program

import "strings"

// tail is an io.Writer that keeps the last keep bytes.
type tail struct {
	keep int
	buf  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > t.keep {
		p = p[len(p)-t.keep:]
	}
	if over := len(t.buf) + len(p) - t.keep; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// maxWords is how many lines of a program's output an error repeats.
const maxWords = 8

// ownWords returns why a program failed, in its own words: its output without the usage
// text that some programs add, unless there is nothing else.
func ownWords(output []byte) string {
	var b strings.Builder
	usage := false
	for line := range strings.Lines(string(output)) {
		switch text := strings.ToLower(strings.TrimSpace(line)); {
		case strings.HasPrefix(text, "usage:"):
			usage = true
		case text == "", line[0] != ' ' && line[0] != '\t' && line[0] != '/' && line[0] != '[' && line[0] != '<':
			usage = usage && text == ""
		}
		if !usage {
			b.WriteString(line)
		}
	}
	if words := LastLines([]byte(b.String()), maxWords); words != "" {
		return words
	}
	return LastLines(output, maxWords)
}

// LastLines returns the last n non-empty lines, joined by " / ", without unprintable
// characters.
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

// printable drops control characters, mainly the backspaces of progress bars.
func printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case r < ' ' || r == 0x7f || r == '\uFFFD' || r >= 0x80 && r < 0xa0:
		return -1
	}
	return r
}
