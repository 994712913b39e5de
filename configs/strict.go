// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// reader turns the document's tree into the map for viper, and reports every field that
// is unknown, duplicate, or of the wrong type. It follows the types, so its depth and
// work do not depend on the file.
type reader struct {
	*report
	// given holds the first position of every field in the files.
	given map[string]position
	// single holds the values of fields outside lists, to compare between files.
	single map[string]any
	// known caches the fields of each type.
	known map[reflect.Type][]field
	// defined holds each volume's values, by its index in the whole configuration.
	defined []map[string]any
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
				r.bad[join(path, meant)] = true // otherwise it would also be reported as missing
			}
			continue
		}
		where := join(path, known.name)
		first, twice := r.given[where]
		if twice && first.file == r.file() {
			r.add(positionOf(key), where, "is given a second time (first in line "+strconv.Itoa(first.line)+")", "keep one")
			continue
		}
		if !twice {
			r.given[where] = r.here(value)
		}
		v := r.value(value, known, where)
		if v == nil || !r.agrees(value, known, where, v, first) {
			continue
		}
		values[known.name] = v
	}
	return values
}

func (r *reader) here(n *yaml.Node) position {
	at := positionOf(n)
	at.file = r.file()
	return at
}

// agrees refuses a field that another file sets to a different value. Sections
// and the list of volumes are merged instead.
func (r *reader) agrees(n *yaml.Node, f *field, where string, v any, first position) bool {
	if f.kind == kindSection || f.kind == kindSections || strings.HasPrefix(where, "volumes[") {
		return true
	}
	other, before := r.single[where]
	if !before {
		r.single[where] = v
	}
	if before && other != v {
		r.add(positionOf(n), where, "is "+printable(fmt.Sprint(v))+" here and "+printable(fmt.Sprint(other))+" in "+first.String(), "keep one of the two")
		return false
	}
	return true
}

// key reports whether n can be a field name, and refuses it otherwise.
func (r *reader) key(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.ScalarNode && n.Value == "<<" && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0:
		r.add(positionOf(n), path, "merge keys (<<) are not supported", "write the fields out")
		return false
	case !r.plain(n, path):
		return false
	case n.Kind != yaml.ScalarNode:
		r.add(positionOf(n), path, describe(n)+" is where a field's name belongs", "write FIELD: VALUE")
		return false
	}
	return true
}

// plain refuses YAML's aliases, anchors and tags: with them a small file can expand to a
// huge one, and people cannot see what a field is.
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

// unknownField finds the field that was meant: in this section, or a field of the same
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
			return "", name + " belongs " + other.where
		}
	}
	return "", "the fields here are " + strings.Join(fieldNames(fields), ", ")
}

// value reads one field; it returns nil if the field was refused or is null.
func (r *reader) value(n *yaml.Node, f *field, where string) any {
	if !r.plain(n, where) {
		return nil
	}
	if isNull(n) {
		if !f.null {
			remedy := "give one, or leave the line out for the default"
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
			r.given[inner] = r.here(n)
			if v := r.scalar(n, kindText, inner); v != nil {
				return map[string]any{f.short: v}
			}
			return nil
		}
		return r.section(n, f.typ, where)
	case kindSections:
		return r.volumes(n, f, where)
	case kindList:
		return r.list(n, where, listRemedy(n), func(i int, child *yaml.Node) any {
			at := item(where, i)
			return r.item(child, at, "", func() any { return r.scalar(child, kindText, at) })
		})
	default:
		return r.scalar(n, f.kind, where)
	}
}

// list reads the items of a list. read returns nil for an item to omit.
func (r *reader) list(n *yaml.Node, where, remedy string, read func(i int, child *yaml.Node) any) any {
	if n.Kind != yaml.SequenceNode {
		r.add(positionOf(n), where, "is "+describe(n)+", not a list", remedy)
		return nil
	}
	values := make([]any, 0, len(n.Content))
	for i, child := range n.Content {
		if v := read(i, child); v != nil {
			values = append(values, v)
		}
	}
	return values
}

// item reads one item. A refused item leaves a placeholder, because the paths of later
// items count it.
func (r *reader) item(n *yaml.Node, at string, none any, read func() any) any {
	r.given[at] = r.here(n)
	switch {
	case !r.plain(n, at):
	case isNull(n):
		r.add(positionOf(n), at, "is empty", "give a value or leave the item out")
	default:
		if v := read(); v != nil {
			return v
		}
	}
	return none
}

// listRemedy proposes the list that was probably meant by a single string.
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

// printable returns a name from the file, quoted unless it is harmless.
func printable(s string) string {
	if s != "" && len(s) <= 48 && strings.Trim(s, wordCharacters) == "" {
		return s
	}
	return quote(s)
}

const wordCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
