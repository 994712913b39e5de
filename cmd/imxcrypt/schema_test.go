// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

// schema is the part of JSON Schema (draft 2020-12) that our schema uses; any other
// keyword is refused, so that nothing goes unchecked.
type schema struct {
	Schema      string `json:"$schema"`
	ID          string `json:"$id"`
	Title       string
	Description string
	Ref         string             `json:"$ref"`
	Defs        map[string]*schema `json:"$defs"`
	Type        any
	Enum        []any
	Required    []string
	Properties  map[string]*schema
	Items       *schema
	AnyOf       []*schema `json:"anyOf"`
	// AdditionalProperties permits members that are not listed.
	AdditionalProperties bool `json:"additionalProperties"`
	MinLength            *int `json:"minLength"`
	MaxLength            *int `json:"maxLength"`
	MinItems             *int `json:"minItems"`
	MaxItems             *int `json:"maxItems"`
	Minimum              *float64
	Pattern              string
	Format               string
}

func statusSchema(t *testing.T) *schema {
	t.Helper()
	f, err := os.Open("../../docs/status.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	var s schema
	if err := d.Decode(&s); err != nil {
		t.Fatal(err)
	}
	return &s
}

func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	case float64:
		if v == math.Trunc(v) {
			return "integer"
		}
	}
	return "number"
}

// violations returns where v breaks the schema. Members that the schema does not have are
// violations too, because everything that the program prints is documented.
func (s *schema) violations(root *schema, at string, v any) []string {
	if s.Ref != "" {
		return root.Defs[strings.TrimPrefix(s.Ref, "#/$defs/")].violations(root, at, v)
	}
	var bad []string
	if s.AnyOf != nil {
		for i, one := range s.AnyOf {
			if all := one.violations(root, at, v); i == 0 || len(all) < len(bad) {
				bad = all
			}
		}
		return bad
	}
	complain := func(format string, args ...any) { bad = append(bad, at+": "+fmt.Sprintf(format, args...)) }
	have := typeOf(v)
	var types []string
	switch t := s.Type.(type) {
	case string:
		types = []string{t}
	case []any:
		for _, e := range t {
			types = append(types, e.(string))
		}
	}
	if types != nil && !slices.Contains(types, have) && !(have == "integer" && slices.Contains(types, "number")) {
		complain("is %s, not %v", have, types)
		return bad
	}
	if s.Enum != nil && !slices.Contains(s.Enum, v) {
		complain("%v is not one of %v", v, s.Enum)
	}
	switch v := v.(type) {
	case string:
		n := utf8.RuneCountInString(v)
		if s.MinLength != nil && n < *s.MinLength || s.MaxLength != nil && n > *s.MaxLength {
			complain("has %d characters", n)
		}
		if s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(v) {
			complain("%q does not fit %s", v, s.Pattern)
		}
		if s.Format == "date-time" {
			if _, err := time.Parse(time.RFC3339Nano, v); err != nil {
				complain("%v", err)
			}
		}
	case float64:
		if s.Minimum != nil && v < *s.Minimum {
			complain("%v is too small", v)
		}
	case []any:
		if s.MinItems != nil && len(v) < *s.MinItems || s.MaxItems != nil && len(v) > *s.MaxItems {
			complain("has %d items", len(v))
		}
		for i, e := range v {
			bad = append(bad, s.Items.violations(root, fmt.Sprintf("%s[%d]", at, i), e)...)
		}
	case map[string]any:
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				complain("has no %s", name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if p := s.Properties[name]; p != nil {
				bad = append(bad, p.violations(root, at+"."+name, v[name])...)
			} else if !s.AdditionalProperties {
				complain("has a %s that is not in the schema", name)
			}
		}
	}
	return bad
}

func validate(t *testing.T, s *schema, text string) []string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return s.violations(s, "$", v)
}

// What the program prints for volumes in all sorts of states follows the published
// schema.
func TestStatusFollowsItsSchema(t *testing.T) {
	t.Parallel()
	s := statusSchema(t)
	b := newRig(t, threeVolumes, "/dev/mmcblk2p3", "/dev/disk/by-path/platform-30b60000.mmc-part4")
	check := func(what string) {
		t.Helper()
		_, out, _ := b.run("status", "--json")
		for _, v := range validate(t, s, out) {
			t.Errorf("%s: %s", what, v)
		}
	}
	check("unprovisioned and absent")
	b.must(t, exitDone, "provision", "data")
	check("mounted")
	b.must(t, exitDone, "lock", "data")
	check("locked")
	b.must(t, exitDone, "unlock", "data")
	check("unlocked")

	at := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	text, err := json.Marshal(statusPage{Volumes: []statusJSON{new(app).statusOf(volumeStatus{Status: volume.Status{
		Name: "x", State: volume.Damaged, Phase: "rotating", Generation: 1, Source: "caam", Wrap: "ecb", Created: at,
		Rotation: &volume.Rotation{Done: 1, Total: 2, Generation: 2}, LastUnlock: &volume.LastUnlock{At: at, Took: 1234567},
		Err: fault.New(fault.HeaderDamaged, "x", nil),
	}})}})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range validate(t, s, string(text)) {
		t.Errorf("rotating: %s", v)
	}
}

// The validator itself finds violations.
func TestSchemaRefusesWhatItShould(t *testing.T) {
	t.Parallel()
	s := statusSchema(t)
	b := newRig(t, threeVolumes, "/dev/mmcblk2p3", "/dev/disk/by-path/platform-30b60000.mmc-part4")
	_, good, _ := b.run("status", "--json", "data")
	for what, edit := range map[string][2]string{
		"another state":    {`"state":"unprovisioned"`, `"state":"asleep"`},
		"a missing member": {`"up":false,`, ``},
		"an unknown one":   {`"up":false,`, `"up":false,"down":true,`},
		"a wrong type":     {`"generation":0`, `"generation":"0"`},
		"a small number":   {`"generation":0`, `"generation":-1`},
		"a fraction":       {`"generation":0`, `"generation":0.5`},
		"no time":          {`"key_created":null`, `"key_created":"yesterday"`},
		"no name":          {`"name":"data"`, `"name":""`},
	} {
		bad := strings.Replace(good, edit[0], edit[1], 1)
		if bad == good {
			t.Errorf("%s: nothing to change in %s", what, good)
		} else if len(validate(t, s, bad)) != 1 {
			t.Errorf("%s: %q", what, validate(t, s, bad))
		}
	}
}

// The schema has every state.
func TestSchemaKnowsAllStates(t *testing.T) {
	t.Parallel()
	var names []any
	for _, n := range stateNames() {
		names = append(names, n)
	}
	if got := statusSchema(t).Defs["volume"].Properties["state"].Enum; !reflect.DeepEqual(got, names) {
		t.Errorf("%v, expected %v", got, names)
	}
}
