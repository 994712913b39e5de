// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"fmt"
	"reflect"
	"time"
)

// fill is the hook by which mapstructure decodes a whole configuration in one step, over
// the defaults. The reader has already checked every field's type. Without the hook
// mapstructure compares each field's name with each given name, which takes as long as
// the rest of the reading.
func (r *reader) fill(from, to reflect.Value) (any, error) {
	c, ok := to.Interface().(Config)
	values, ok2 := from.Interface().(map[string]any)
	if !ok || !ok2 {
		return nil, fmt.Errorf("%v where the configuration should be", from.Type())
	}
	if err := r.fillSection(reflect.ValueOf(&c).Elem(), values); err != nil {
		return nil, err
	}
	return c, nil
}

// fillSection sets the fields of a struct; those without a value stay as they
// are.
func (r *reader) fillSection(section reflect.Value, values map[string]any) error {
	fields := r.fields(section.Type())
	for name, value := range values {
		f := findField(fields, name)
		if f == nil {
			return fmt.Errorf("%s: unknown field", name)
		}
		if err := r.fillField(section.Field(f.index), f, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

var errOtherType = errors.New("a value of another type")

// fillField sets one field. Strings become sizes and durations here; bare numbers
// never do.
func (r *reader) fillField(to reflect.Value, f *field, value any) error {
	switch v := value.(type) {
	case bool:
		if f.kind == kindBool {
			to.SetBool(v)
			return nil
		}
	case int:
		if f.kind == kindInt {
			to.SetInt(int64(v))
			return nil
		}
	case string:
		return fillText(to, f.kind, v)
	case map[string]any:
		if f.kind == kindSection {
			return r.fillSection(to, v)
		}
	case []any:
		return r.fillList(to, f.kind, v)
	}
	return fmt.Errorf("%v: %w", value, errOtherType)
}

func fillText(to reflect.Value, k kind, text string) error {
	var n int64
	var d time.Duration
	var err error
	switch k {
	case kindText:
		to.SetString(text)
		return nil
	case kindSize:
		n, err = ParseSize(text)
	case kindDuration:
		d, err = parseDuration(text)
		n = int64(d)
	default:
		err = fmt.Errorf("%s: %w", quote(text), errOtherType)
	}
	if err == nil {
		to.SetInt(n)
	}
	return err
}

// fillList sets a list of strings or of sections. Sections are decoded over the
// existing elements, which hold the defaults.
func (r *reader) fillList(to reflect.Value, k kind, list []any) error {
	switch k {
	case kindList:
		texts := make([]string, len(list))
		for i, v := range list {
			text, ok := v.(string)
			if !ok {
				return fmt.Errorf("[%d]: %v: %w", i, v, errOtherType)
			}
			texts[i] = text
		}
		to.Set(reflect.ValueOf(texts))
		return nil
	case kindSections:
		if to.Len() != len(list) {
			return fmt.Errorf("%d sections for %d", len(list), to.Len())
		}
		for i, v := range list {
			values, ok := v.(map[string]any)
			if !ok {
				return fmt.Errorf("[%d]: %v: %w", i, v, errOtherType)
			}
			if err := r.fillSection(to.Index(i), values); err != nil {
				return fmt.Errorf("[%d]: %w", i, err)
			}
		}
		return nil
	}
	return fmt.Errorf("%v: %w", list, errOtherType)
}
