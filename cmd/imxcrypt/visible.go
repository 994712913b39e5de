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

// visible writes printable text unchanged and escapes the rest as in a quoted string:
// characters that change the text direction, have no width or control a terminal could
// make a path or a label look like another. JSON has the same escapes.
type visible struct{ io.Writer }

// Write implements io.Writer. No character is split between two calls, because each call
// prints whole strings.
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

// fileOf returns the file behind a stream, if there is one.
func fileOf(w io.Writer) (*os.File, bool) {
	if v, ok := w.(visible); ok {
		w = v.Writer
	}
	f, ok := w.(*os.File)
	return f, ok
}

// controls returns the control sequences that this program itself writes.
func controls() []string {
	return []string{sgrRed, sgrYellow, sgrGreen, sgrPlain, clearLine}
}

// clearLine clears a terminal's line from the cursor to its end.
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

// isPlain reports whether the text is all printable ASCII, as nearly all text is.
func isPlain(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < ' ' || c > '~') && c != '\n' && c != '\t' && c != '\r' {
			return false
		}
	}
	return true
}

// control returns the length of the program's own control sequence at the start of text,
// or 0.
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
