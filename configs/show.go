// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// YAML writes the configuration with every field, defaults too, in the order of
// the types. It loads again, to the same configuration.
func (c *Config) YAML() []byte {
	var b bytes.Buffer
	writeFields(&b, reflect.ValueOf(c).Elem(), "")
	return b.Bytes()
}

// MarshalJSON writes the same as YAML, with the same names and units.
func (c *Config) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	jsonSection(&b, reflect.ValueOf(c).Elem())
	return b.Bytes(), nil
}

// writeFields writes a section's fields, one a line behind the indentation.
func writeFields(b *bytes.Buffer, section reflect.Value, indent string) {
	for _, f := range fieldsOf(section.Type()) {
		value := section.Field(f.index)
		b.WriteString(indent + f.name + ":")
		switch {
		case f.null && value.Field(0).IsZero():
			b.WriteString(" null\n")
		case f.kind == kindSection:
			b.WriteString("\n")
			writeFields(b, value, indent+"  ")
		case f.kind == kindSections && value.Len() > 0:
			b.WriteString("\n")
			for i := range value.Len() {
				var fields bytes.Buffer
				writeFields(&fields, value.Index(i), indent+"    ")
				b.WriteString(indent + "  - " + fields.String()[len(indent)+4:])
			}
		default:
			b.WriteString(" " + inline(value, f.kind, yamlText) + "\n")
		}
	}
}

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

// inline is a value on one line. What differs between YAML and JSON is only how
// a text is quoted.
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

// yamlText leaves a text bare where no YAML reader can take it for anything
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
	if _, err := parseSize(s); err == nil {
		return s
	}
	if _, err := parseDuration(s); err == nil {
		return s
	}
	return yamlQuoted(s)
}

// yamlQuoted: Go's escapes in a quoted text are all YAML's too.
func yamlQuoted(s string) string { return strconv.Quote(s) }

func jsonText(s string) string {
	b, _ := json.Marshal(s) // a string always can
	return string(b)
}
