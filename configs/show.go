// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// YAML returns the configuration with every field, including defaults, in the order of
// the types. Loading it gives the same configuration.
func (c *Config) YAML() []byte {
	var b bytes.Buffer
	writeFields(&b, reflect.ValueOf(c).Elem(), "", "", nil)
	return b.Bytes()
}

// Origins is YAML with a comment after each value: the file and line it comes from, or
// that it is a default. elsewhere has other origins, by field path.
func (c *Config) Origins(elsewhere map[string]string) []byte {
	var b bytes.Buffer
	writeFields(&b, reflect.ValueOf(c).Elem(), "", "", func(field string) string {
		if from, ok := elsewhere[field]; ok {
			return from
		}
		if at, ok := c.given[field]; ok {
			return strings.Map(visible, at.String())
		}
		return "default"
	})
	return b.Bytes()
}

// visible keeps a file's name from ending the comment.
func visible(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}

// MarshalJSON returns the same as YAML, with the same names and units.
func (c *Config) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	jsonSection(&b, reflect.ValueOf(c).Elem())
	return b.Bytes(), nil
}

// writeFields writes a section's fields, indented, one per line, each followed by
// its origin if origin is not nil.
func writeFields(b *bytes.Buffer, section reflect.Value, indent, path string, origin func(field string) string) {
	for _, f := range fieldsOf(section.Type()) {
		value, where := section.Field(f.index), join(path, f.name)
		line := indent + f.name + ":"
		switch {
		case f.null && value.Field(0).IsZero():
			line += " null"
		case f.kind == kindSection:
			b.WriteString(line + "\n")
			writeFields(b, value, indent+"  ", where, origin)
			continue
		case f.kind == kindSections && value.Len() > 0:
			b.WriteString(line + "\n")
			for i := range value.Len() {
				var fields bytes.Buffer
				writeFields(&fields, value.Index(i), indent+"    ", item(where, i), origin)
				b.WriteString(indent + "  - " + fields.String()[len(indent)+4:])
			}
			continue
		default:
			line += " " + inline(value, f.kind, yamlText)
		}
		if origin != nil {
			line = fmt.Sprintf("%-*s  # %s", originColumn, line, origin(where))
		}
		b.WriteString(line + "\n")
	}
}

// originColumn leaves room for most values.
const originColumn = 44

func jsonSection(b *bytes.Buffer, section reflect.Value) {
	b.WriteByte('{')
	for i, f := range fieldsOf(section.Type()) {
		if i > 0 {
			b.WriteByte(',')
		}
		value := section.Field(f.index)
		b.WriteString(jsonText(f.name) + ":")
		switch {
		case f.null && value.Field(0).IsZero():
			b.WriteString("null")
		case f.kind == kindSection:
			jsonSection(b, value)
		case f.kind == kindSections:
			b.WriteByte('[')
			for i := range value.Len() {
				if i > 0 {
					b.WriteByte(',')
				}
				jsonSection(b, value.Index(i))
			}
			b.WriteByte(']')
		default:
			b.WriteString(inline(value, f.kind, jsonText))
		}
	}
	b.WriteByte('}')
}

// inline formats a value on one line. YAML and JSON differ only in how strings are
// quoted.
func inline(v reflect.Value, k kind, text func(string) string) string {
	switch k {
	case kindBool:
		return strconv.FormatBool(v.Bool())
	case kindInt:
		return strconv.FormatInt(v.Int(), 10)
	case kindSize:
		return text(formatSize(v.Int()))
	case kindDuration:
		return text(time.Duration(v.Int()).String())
	case kindList, kindSections:
		words := make([]string, v.Len())
		for i := range words {
			words[i] = text(v.Index(i).String())
		}
		return "[" + strings.Join(words, ", ") + "]"
	default:
		return text(v.String())
	}
}

// yamlText leaves a string unquoted if no YAML parser can take it for anything
// else.
func yamlText(s string) string {
	switch strings.ToLower(s) {
	case "null", "true", "false", "yes", "no", "on", "off", "y", "n":
		return yamlQuoted(s)
	}
	letter := s != "" && (s[0] == '/' || s[0]|0x20 >= 'a' && s[0]|0x20 <= 'z')
	if letter && strings.Trim(s, wordCharacters+"/.=") == "" {
		return s
	}
	if _, err := ParseSize(s); err == nil {
		return s
	}
	if _, err := parseDuration(s); err == nil {
		return s
	}
	return yamlQuoted(s)
}

// yamlQuoted: Go's escapes are all valid in YAML.
func yamlQuoted(s string) string { return strconv.Quote(s) }

func jsonText(s string) string {
	b, _ := json.Marshal(s) // cannot fail for a string
	return string(b)
}
