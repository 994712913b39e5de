// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// position is a place in a file; line and column count from 1, and are 0 if unknown.
type position struct {
	file         string // empty: the one that is being read
	line, column int
	null         bool // the value there is null
}

func (p position) String() string { return p.file + ":" + strconv.Itoa(p.line) }

func positionOf(n *yaml.Node) position {
	return position{line: n.Line, column: n.Column, null: isNull(n)}
}

// parseYAML parses the single document in data, or reports why it cannot. JSON is YAML
// and is accepted. TOML is not: a second grammar would need a second set of strict rules.
func parseYAML(file string, data []byte, r *report) *yaml.Node {
	switch ext := strings.ToLower(filepath.Ext(file)); ext {
	case ".toml", ".ini", ".env", ".properties":
		r.add(position{}, "", "the configuration is YAML, not "+strings.ToUpper(ext[1:]),
			"write it as YAML or JSON, and name it .yaml")
		return nil
	}
	if !readable(data, r) {
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		r.add(position{}, "", "the file is empty", "give at least one volume with name and device")
		return nil
	} else if err != nil {
		syntax(data, err, r)
		return nil
	}
	var second yaml.Node
	if err := decoder.Decode(&second); err == nil {
		r.add(positionOf(&second), "", "a second document begins here", "keep one, without --- between")
		return nil
	} else if !errors.Is(err, io.EOF) {
		syntax(data, err, r)
		return nil
	}
	return document.Content[0]
}

// readable reports whether data is text, and adds a problem if it is not. The YAML parser
// would accept some such bytes (UTF-16, a byte order mark) and report others without a
// position.
func readable(data []byte, r *report) bool {
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		r.add(position{line: 1, column: 1}, "", "the file begins with a byte order mark", "save it as UTF-8 without BOM")
		return false
	}
	for i := 0; i < len(data); {
		c, size := utf8.DecodeRune(data[i:])
		control := c < ' ' && c != '\n' && c != '\r' && c != '\t' || c == 0x7f
		if control || c == utf8.RuneError && size == 1 {
			reason := "byte " + hexByte(data[i]) + " is not UTF-8 text"
			if control {
				reason = "control character " + hexByte(data[i])
			}
			r.add(positionAt(data, i), "", reason, "save the file as plain UTF-8 text")
			return false
		}
		i += size
	}
	return true
}

func hexByte(b byte) string {
	const digits = "0123456789abcdef"
	return "0x" + string([]byte{digits[b>>4], digits[b&15]})
}

func positionAt(data []byte, offset int) position {
	start := bytes.LastIndexByte(data[:offset], '\n') + 1
	return position{
		line:   1 + bytes.Count(data[:offset], []byte("\n")),
		column: 1 + utf8.RuneCount(data[start:offset]),
	}
}

// syntax reports the YAML parser's error. The parser gives at most the line, and its most
// common message is about a tab, which is invisible.
func syntax(data []byte, err error, r *report) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var at position
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		number, after, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			at.line, text = n, after
		}
	}
	if name, ok := strings.CutPrefix(text, "unknown anchor "); ok {
		name, _, _ = strings.Cut(name, " ")
		r.add(at, "", "aliases (*"+strings.Trim(name, "'")+") are not supported", "write the value out")
		return
	}
	if at.line == 0 && !strings.Contains(text, "max depth") {
		at.line = 1 // the parser omits the first line
	}
	aboutTab := strings.Contains(text, "cannot start any token") || strings.Contains(text, "tab character")
	if tab := tabNear(data, at.line); aboutTab && tab.line > 0 {
		r.add(tab, "", "a tab is used for indentation", "use spaces")
		return
	}
	remedy := "look at this line and those next to it"
	switch {
	case strings.Contains(text, "end of stream"):
		remedy = "close the quote or bracket that is open"
	case strings.Contains(text, "',' or"):
		remedy = "close the bracket, or put a comma between the items"
	case strings.Contains(text, "mapping values"):
		remedy = "put a text that holds a colon in quotes, and give the fields of a group the same indentation"
	case strings.Contains(text, "did not find expected"):
		// The parser names the first line of the group in which it failed.
		at.line = stumbledAt(data, err)
		remedy = "give the fields of a group the same indentation, and items of a list a dash"
	}
	r.add(at, "", "not YAML: "+text, remedy)
}

// stumbledAt returns the first line up to which the parser fails as it does on the whole
// file, or 0 if finding it would take too long.
func stumbledAt(data []byte, err error) int {
	if len(data) > 64*kib {
		return 0
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	return 1 + sort.Search(len(lines)-1, func(n int) bool {
		var ignored yaml.Node
		part := bytes.Join(lines[:n+1], nil)
		got := yaml.NewDecoder(bytes.NewReader(part)).Decode(&ignored)
		return got != nil && got.Error() == err.Error()
	})
}

// tabNear finds the first line that is indented with a tab, beginning with the line
// before the given one.
func tabNear(data []byte, line int) position {
	lines := bytes.SplitAfterN(data, []byte("\n"), line+2)
	for i := max(0, line-2); i < len(lines) && i <= line; i++ {
		blank := lines[i][:len(lines[i])-len(bytes.TrimLeft(lines[i], " \t"))]
		if tab := bytes.IndexByte(blank, '\t'); tab >= 0 {
			return position{line: i + 1, column: tab + 1}
		}
	}
	return position{}
}
