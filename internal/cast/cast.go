// SPDX-License-Identifier: Apache-2.0

// Package cast stands in for the module of that name, as internal/afero does for
// its: viper turns values into each other with it when it is asked to, and the
// module brings html/template and three regular expressions along, which are made
// at each start of the program.
//
// It has what viper 1.21 compiles against. Numbers, texts, lists and maps become
// each other as in the module; what cannot be converted is the zero value, and so
// is what only the module knows: errors, templates and dates that are texts.
package cast

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

type number interface {
	~int | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~float64
}

// to converts a number, a truth value or a text that is a number.
func to[T number](v any) T {
	r := reflect.ValueOf(v)
	switch {
	case !r.IsValid():
		return 0
	case r.Kind() == reflect.Bool && r.Bool():
		return 1
	case r.Kind() == reflect.String:
		text := strings.TrimSpace(r.String())
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return T(n)
		}
		f, _ := strconv.ParseFloat(text, 64)
		return T(f)
	case r.CanInt():
		return T(r.Int())
	case r.CanUint():
		return T(r.Uint())
	case r.CanFloat():
		return T(r.Float())
	}
	return 0
}

func ToInt(v any) int         { return to[int](v) }
func ToInt32(v any) int32     { return to[int32](v) }
func ToInt64(v any) int64     { return to[int64](v) }
func ToUint(v any) uint       { return to[uint](v) }
func ToUint8(v any) uint8     { return to[uint8](v) }
func ToUint16(v any) uint16   { return to[uint16](v) }
func ToUint32(v any) uint32   { return to[uint32](v) }
func ToUint64(v any) uint64   { return to[uint64](v) }
func ToFloat64(v any) float64 { return to[float64](v) }

// ToBool takes texts as strconv does, and numbers other than 0 for true.
func ToBool(v any) bool {
	switch b := v.(type) {
	case bool:
		return b
	case string:
		is, _ := strconv.ParseBool(b)
		return is
	}
	return to[float64](v) != 0
}

// ToString writes what is no list and no map.
func ToString(v any) string {
	switch s := v.(type) {
	case nil:
		return ""
	case string:
		return s
	case []byte:
		return string(s)
	case fmt.Stringer:
		return s.String()
	case error:
		return s.Error()
	}
	switch reflect.ValueOf(v).Kind() {
	case reflect.Slice, reflect.Array, reflect.Map, reflect.Struct, reflect.Pointer, reflect.Func, reflect.Chan:
		return ""
	}
	return fmt.Sprint(v)
}

// ToDuration takes texts with a unit, and numbers as nanoseconds.
func ToDuration(v any) time.Duration {
	if text, ok := v.(string); ok && strings.ContainsAny(text, "nsuµmh") {
		d, _ := time.ParseDuration(text)
		return d
	}
	return to[time.Duration](v)
}

// ToTime takes times only.
func ToTime(v any) time.Time {
	t, _ := v.(time.Time)
	return t
}

// each converts the elements of a list.
func each[T any](v any, element func(any) T) []T {
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice && r.Kind() != reflect.Array {
		return []T{}
	}
	list := make([]T, r.Len())
	for i := range list {
		list[i] = element(r.Index(i).Interface())
	}
	return list
}

func ToBoolSlice(v any) []bool              { return each(v, ToBool) }
func ToIntSlice(v any) []int                { return each(v, ToInt) }
func ToUintSlice(v any) []uint              { return each(v, ToUint) }
func ToFloat64Slice(v any) []float64        { return each(v, ToFloat64) }
func ToDurationSlice(v any) []time.Duration { return each(v, ToDuration) }

// ToStringSlice takes a text for its words.
func ToStringSlice(v any) []string {
	if text, ok := v.(string); ok {
		return strings.Fields(text)
	}
	return each(v, ToString)
}

// maps converts the keys and elements of a map.
func maps[T any](v any, element func(any) T) map[string]T {
	m := map[string]T{}
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Map {
		return m
	}
	for i := r.MapRange(); i.Next(); {
		m[ToString(i.Key().Interface())] = element(i.Value().Interface())
	}
	return m
}

// ToStringMap gives the map itself where it is one already.
func ToStringMap(v any) map[string]any {
	if m, ok := v.(map[string]any); ok {
		return m
	}
	return maps(v, func(v any) any { return v })
}

func ToStringMapString(v any) map[string]string { return maps(v, ToString) }

func ToStringMapStringSlice(v any) map[string][]string { return maps(v, ToStringSlice) }
