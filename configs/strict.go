// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// reader turns the document's tree into the map that viper takes, and reports
// every field that is unknown, doubled, or of another type. It goes only where
// the types go, so its depth and work do not depend on who wrote the file.
type reader struct {
	*report
	// given holds the place of every field that stands in the file.
	given map[string]position
	// known keeps what the types say, for each type that was met.
	known map[reflect.Type][]field
}

func (r *reader) fields(t reflect.Type) []field {
	list, ok := r.known[t]
	if !ok {
		list = fieldsOf(t)
		r.known[t] = list
	}
	return list
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// section reads the fields of a struct type.
func (r *reader) section(n *yaml.Node, t reflect.Type, path string) map[string]any {
	values := make(map[string]any, len(n.Content)/2)
	if n.Kind != yaml.MappingNode {
		r.add(positionOf(n), path, "is "+describe(n)+", not a group of fields", "write FIELD: VALUE, one a line")
		return values
	}
	fields := r.fields(t)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !r.key(key, path) {
			continue
		}
		known := findField(fields, key.Value)
		if known == nil && r.full() {
			r.more++
			continue
		}
		if known == nil {
			meant, remedy := unknownField(key.Value, t, fields)
			r.add(positionOf(key), join(path, printable(key.Value)), "unknown field", remedy)
			if meant != "" {
				r.bad[join(path, meant)] = true // or it would be called missing as well
			}
			continue
		}
		where := join(path, known.name)
		if first, twice := r.given[where]; twice {
			r.add(positionOf(key), where, "is given a second time (first in line "+strconv.Itoa(first.line)+")", "keep one")
			continue
		}
		r.given[where] = positionOf(value)
		if v := r.value(value, known, where); v != nil {
			values[known.name] = v
		}
	}
	return values
}

// key refuses what cannot be a field's name.
func (r *reader) key(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.ScalarNode && n.Value == "<<" && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0:
		r.add(positionOf(n), path, "merge keys (<<) are not supported", "write the fields out")
		return false
	case !r.plain(n, path):
		return false
	case n.Kind != yaml.ScalarNode:
		r.add(positionOf(n), path, describe(n)+" stands where a field's name belongs", "write FIELD: VALUE")
		return false
	}
	return true
}

// plain refuses YAML's means of saying the same thing elsewhere or otherwise:
// with them a small file can unfold to a huge one, and the reader of a file
// cannot see what a field is.
func (r *reader) plain(n *yaml.Node, where string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		r.add(positionOf(n), where, "aliases (*"+printable(n.Value)+") are not supported", "write the value out")
	case n.Anchor != "":
		r.add(positionOf(n), where, "anchors (&"+printable(n.Anchor)+") are not supported", "write the value alone")
	case n.Style&yaml.TaggedStyle != 0:
		r.add(positionOf(n), where, "tags ("+quoteless(n.Tag)+") are not supported", "write the value alone")
	default:
		return true
	}
	return false
}

func findField(fields []field, name string) *field {
	for i := range fields {
		if fields[i].name == name {
			return &fields[i]
		}
	}
	return nil
}

// unknownField finds the field that was meant: in this section, or the same
// name in another.
func unknownField(name string, t reflect.Type, fields []field) (meant, remedy string) {
	if lower := strings.ToLower(name); lower != name && findField(fields, lower) != nil {
		return lower, "fields are written in small letters: " + lower
	}
	if near := nearest(name, fieldNames(fields)); near != "" {
		return near, "did you mean " + near + "?"
	}
	for _, other := range []struct {
		typ   reflect.Type
		where string
	}{
		{reflect.TypeFor[Config](), "at the top of the file"},
		{reflect.TypeFor[CAAM](), "under caam"},
		{reflect.TypeFor[Volume](), "in an item of volumes"},
		{reflect.TypeFor[Filesystem](), "under filesystem"},
		{reflect.TypeFor[Mount](), "under mount"},
	} {
		if other.typ != t && findField(fieldsOf(other.typ), name) != nil {
			return "", name + " stands " + other.where
		}
	}
	return "", "the fields here are " + strings.Join(fieldNames(fields), ", ")
}

// value reads one field; nil if it was refused or is null.
func (r *reader) value(n *yaml.Node, f *field, where string) any {
	if !r.plain(n, where) {
		return nil
	}
	if isNull(n) {
		if !f.null {
			remedy := "give one, or leave the line out to have the default"
			if f.must {
				remedy = "give one"
			}
			r.add(positionOf(n), where, "has no value", remedy)
		}
		return nil
	}
	switch f.kind {
	case kindSection:
		if n.Kind == yaml.ScalarNode && f.short != "" {
			inner := join(where, f.short)
			r.given[inner] = positionOf(n)
			if v := r.scalar(n, kindText, inner); v != nil {
				return map[string]any{f.short: v}
			}
			return nil
		}
		return r.section(n, f.typ, where)
	case kindSections:
		return r.list(n, where, "begin each item with a dash: - name: data", map[string]any{}, func(n *yaml.Node, where string) any { return r.section(n, f.typ.Elem(), where) })
	case kindList:
		return r.list(n, where, listRemedy(n), "", func(n *yaml.Node, where string) any { return r.scalar(n, kindText, where) })
	default:
		return r.scalar(n, f.kind, where)
	}
}

// list reads the items of a list; none stands for an item that was refused.
func (r *reader) list(n *yaml.Node, where, remedy string, none any, read func(*yaml.Node, string) any) any {
	if n.Kind != yaml.SequenceNode {
		r.add(positionOf(n), where, "is "+describe(n)+", not a list", remedy)
		return nil
	}
	values := make([]any, 0, len(n.Content))
	for i, child := range n.Content {
		at := item(where, i)
		r.given[at] = positionOf(child)
		var v any
		switch {
		case !r.plain(child, at):
		case isNull(child):
			r.add(positionOf(child), at, "is empty", "give a value or leave the item out")
		default:
			v = read(child, at)
		}
		if v == nil {
			v = none // the paths of the items that follow count this one
		}
		values = append(values, v)
	}
	return values
}

// listRemedy writes a single text as the list that was probably meant.
func listRemedy(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || len(n.Value) > 60 {
		return "write it as a list, as in [A, B]"
	}
	words := strings.FieldsFunc(n.Value, func(c rune) bool { return c == ',' || c == ' ' })
	for i, w := range words {
		words[i] = yamlText(w)
	}
	return "write [" + strings.Join(words, ", ") + "]"
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// describe says what a value is, as opposed to what it should be.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of fields"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.Tag {
	case "!!null":
		return "empty"
	case "!!bool":
		return "the truth value " + quoteless(n.Value)
	case "!!int", "!!float":
		return "the number " + quoteless(n.Value)
	case "!!timestamp":
		return "the date " + quoteless(n.Value)
	}
	return "the text " + quote(n.Value)
}

func quoteless(s string) string { return strings.Trim(quote(s), `"`) }

// printable shows a name from the file: as it stands if it is harmless.
func printable(s string) string {
	if s != "" && len(s) <= 48 && strings.Trim(s, wordCharacters) == "" {
		return s
	}
	return quote(s)
}

const wordCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
