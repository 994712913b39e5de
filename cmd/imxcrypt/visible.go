// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// visible writes printable text unchanged, and escapes the rest as a quoted
// string has it: what turns the direction of writing, has no width or steers a
// terminal would let a path or a label show as another. JSON has the same escapes.
type visible struct{ io.Writer }

// Write implements io.Writer. A character is never spread over two calls: whatever
// is printed here is a whole line, or a part of one.
func (v visible) Write(p []byte) (int, error) {
	text := string(p)
	if shown := escape(text); shown != text {
		p = []byte(shown)
		if _, err := v.Writer.Write(p); err != nil {
			return 0, err
		}
		return len(text), nil
	}
	return v.Writer.Write(p)
}

// fileOf is the file behind a stream, if there is one.
func fileOf(w io.Writer) (*os.File, bool) {
	if v, ok := w.(visible); ok {
		w = v.Writer
	}
	f, ok := w.(*os.File)
	return f, ok
}

// controls are the sequences that this program writes itself.
func controls() []string {
	return []string{sgrRed, sgrYellow, sgrGreen, sgrPlain, clearLine}
}

// clearLine clears a terminal's line from the cursor on.
const clearLine = "\x1b[K"

func escape(text string) string {
	if isPlain(text) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		if n := control(text[i:]); n > 0 {
			b.WriteString(text[i : i+n])
			i += n
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case r == '\n' || r == '\t' || r == '\r' || unicode.IsPrint(r):
			b.WriteString(text[i : i+n])
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return b.String()
}

// isPlain reports whether there is nothing but ASCII that can be seen, which nearly
// everything is.
func isPlain(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < ' ' || c > '~') && c != '\n' && c != '\t' && c != '\r' {
			return false
		}
	}
	return true
}

// control is the length of the program's own control sequence that text begins
// with.
func control(text string) int {
	if text[0] != '\x1b' {
		return 0
	}
	for _, c := range controls() {
		if strings.HasPrefix(text, c) {
			return len(c)
		}
	}
	return 0
}
