// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"reflect"
	"strings"
	"time"
)

// kind is how a field is written in the file.
type kind int

const (
	kindBool kind = iota
	kindInt
	kindText
	kindSize
	kindDuration
	kindList     // of strings
	kindSection  // fields
	kindSections // a list of sections
)

// field is what the struct tags say about one field. The types are the only
// definition of the file's format.
type field struct {
	name  string
	kind  kind
	short string // the field whose value alone may replace the section
	null  bool   // may be written as null
	must  bool   // has no default
	typ   reflect.Type
	index int
}

var durationType = reflect.TypeFor[time.Duration]()

// fieldsOf lists the fields of a section in their order.
func fieldsOf(t reflect.Type) []field {
	list := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		words := strings.Split(f.Tag.Get("mapstructure"), ",")
		if words[0] == "" {
			continue
		}
		entry := field{name: words[0], kind: kindOf(f.Type), typ: f.Type, index: i}
		for _, w := range words[1:] {
			if short, ok := strings.CutPrefix(w, "short="); ok {
				entry.short = short
			}
			entry.null = entry.null || w == "null"
			entry.must = entry.must || w == "must"
		}
		list = append(list, entry)
	}
	return list
}

func kindOf(t reflect.Type) kind {
	switch {
	case t == durationType:
		return kindDuration
	case t.Kind() == reflect.Bool:
		return kindBool
	case t.Kind() == reflect.Int:
		return kindInt
	case t.Kind() == reflect.Int64:
		return kindSize
	case t.Kind() == reflect.Struct:
		return kindSection
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return kindSections
	case t.Kind() == reflect.Slice:
		return kindList
	}
	return kindText
}

func fieldNames(list []field) []string {
	names := make([]string, len(list))
	for i, f := range list {
		names[i] = f.name
	}
	return names
}
