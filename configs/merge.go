// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// volumes reads one file's list of volumes. The indices in their paths count across all
// files; only messages count each file separately.
func (r *reader) volumes(n *yaml.Node, f *field, where string) any {
	return r.list(n, where, "begin each item with a dash: - name: data", func(i int, child *yaml.Node) any {
		at := item(where, len(r.places))
		r.places = append(r.places, i)
		v, _ := r.item(child, at, map[string]any{}, func() any { return r.section(child, f.typ.Elem(), at) }).(map[string]any)
		if r.repeats(child, at, v) {
			r.forget(at)
			r.places = r.places[:len(r.places)-1]
			return nil
		}
		r.defined = append(r.defined, v)
		return v
	})
}

// repeats reports whether another file has an identical definition of the volume.
// A different definition is refused: a volume is defined in one file.
func (r *reader) repeats(n *yaml.Node, at string, v map[string]any) bool {
	name, _ := v["name"].(string)
	if len(r.files) == 1 || name == "" {
		return false
	}
	for i, other := range r.defined {
		if other["name"] != name {
			continue
		}
		first := r.given[item("volumes", i)]
		if first.file == r.file() {
			continue // duplicates within one file are refused elsewhere
		}
		if reflect.DeepEqual(v, other) {
			return true
		}
		r.add(positionOf(n), at, "volume "+quote(name)+" is defined differently in "+first.String()+
			" (they differ in "+strings.Join(differing(v, other), ", ")+")",
			"define it in one file: remove one, or give the two files the same name, so that the one in /etc masks the vendor's")
		return false
	}
	return false
}

// forget drops the recorded positions of a field and of the fields below it.
func (r *reader) forget(at string) {
	maps.DeleteFunc(r.given, func(field string, _ position) bool {
		return field == at || strings.HasPrefix(field, at+".")
	})
}

// differing lists the fields that differ.
func differing(a, b map[string]any) []string {
	var names []string
	for _, m := range []map[string]any{a, b} {
		for name := range m {
			if !reflect.DeepEqual(a[name], b[name]) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
