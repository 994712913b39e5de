// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"imxcrypt/bench"
	"imxcrypt/internal/doctor"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fault/manual"
	"imxcrypt/volume"
)

// output has the types of the lines that each command prints with --json.
func outputs() map[string][]any {
	result := []any{resultJSON{}}
	return map[string][]any{
		"imxcrypt version":       {versionJSON{}},
		"imxcrypt provision":     {provisionJSON{}, passphraseJSON{}, resultJSON{}}, // the last from --dry-run
		"imxcrypt unlock":        result,
		"imxcrypt lock":          result,
		"imxcrypt verify":        result,
		"imxcrypt adopt":         result,
		"imxcrypt recover":       result,
		"imxcrypt header backup": result, "imxcrypt header restore": result, "imxcrypt header repair": result,
		"imxcrypt boot":         {resultJSON{}, bootStepJSON{}},
		"imxcrypt erase":        {eraseJSON{}},
		"imxcrypt rotate":       {progressJSON{}, rotatedJSON{}, pausedJSON{}, passphraseJSON{}, resultJSON{}},
		"imxcrypt resize":       {resizeJSON{}, resultJSON{}},
		"imxcrypt rename":       result,
		"imxcrypt encrypt":      {progressJSON{}, rotatedJSON{}, resultJSON{}},
		"imxcrypt decrypt":      {progressJSON{}, rotatedJSON{}, resultJSON{}},
		"imxcrypt sleep":        {sleepJSON{}},
		"imxcrypt doctor":       {doctor.Report{}},
		"imxcrypt bench":        {bench.Result{}},
		"imxcrypt header check": {headerCheckJSON{}},
		"imxcrypt key create":   {keyFilesJSON{}},
		"imxcrypt key import":   {keyInfoJSON{}},
		"imxcrypt key inspect":  {keyInfoJSON{}},
		"imxcrypt config check": {configCheckJSON{}},
	}
}

// handWritten are the commands whose schema is written by hand, not generated: status,
// and config show, which prints the configuration's fields (docs/configuration.md).
func handWritten() []string { return []string{"imxcrypt status", "imxcrypt config show"} }

func schemaFile(command string) string {
	return "docs/" + strings.ReplaceAll(strings.TrimPrefix(command, "imxcrypt "), " ", "-") + ".schema.json"
}

// Each command that prints JSON has a published schema, generated from its types.
func TestSchemasAreUpToDate(t *testing.T) {
	t.Parallel()
	files := []string{}
	for command, lines := range outputs() {
		files = append(files, schemaFile(command))
		generated(t, schemaFile(command), schemaOf(t, command, lines))
	}
	for _, command := range handWritten() {
		files = append(files, schemaFile(command))
	}
	have, err := filepath.Glob("../../docs/*.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range have {
		if !slices.Contains(files, strings.TrimPrefix(path, "../../")) {
			t.Errorf("%s is the schema of no command", path)
		}
	}
	// Every command has a schema, or always prints text.
	text := []string{"imxcrypt", "imxcrypt completion", "imxcrypt key", "imxcrypt header", "imxcrypt config", "imxcrypt config example"}
	for _, c := range shown((&app{}).root()) {
		name := c.CommandPath()
		if !slices.Contains(files, schemaFile(name)) && !slices.Contains(text, name) && !strings.HasPrefix(name, "imxcrypt completion ") {
			t.Errorf("%s has no schema", name)
		}
	}
}

func schemaOf(t *testing.T, command string, lines []any) string {
	t.Helper()
	defs := map[string]any{}
	var kinds []any
	for _, line := range append(slices.Clone(lines), failureJSON{}) {
		kinds = append(kinds, schemaOfType(t, reflect.TypeOf(line), defs))
	}
	text, err := json.MarshalIndent(map[string]any{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"$id":         "urn:" + strings.ReplaceAll(command, " ", ":") + ":1",
		"title":       command + " --json",
		"description": "A line of the output. Durations are in milliseconds (_ms), sizes in bytes. Members are added, never renamed or taken away; readers ignore those they do not know.",
		"anyOf":       kinds,
		"$defs":       defs,
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

// schemaOfType describes a type as encoding/json writes it. Structs go to defs.
func schemaOfType(t *testing.T, of reflect.Type, defs map[string]any) map[string]any {
	t.Helper()
	switch of {
	case reflect.TypeFor[volume.Duration]():
		return map[string]any{"type": "number"}
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case reflect.TypeFor[fault.Code]():
		enum := []string{""}
		for _, f := range manual.Entries() {
			enum = append(enum, string(f.Code))
		}
		return map[string]any{"enum": enum}
	}
	switch of.Kind() {
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return map[string]any{"type": "integer"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOfType(t, of.Elem(), defs)}
	case reflect.Pointer:
		return map[string]any{"anyOf": []any{schemaOfType(t, of.Elem(), defs), map[string]any{"type": "null"}}}
	case reflect.Struct:
		name := strings.TrimSuffix(strings.ToLower(of.Name()[:1])+of.Name()[1:], "JSON")
		if _, known := defs[name]; !known {
			defs[name] = nil // in case the type contains itself
			properties, required := map[string]any{}, []string{}
			for _, f := range reflect.VisibleFields(of) {
				member, option, _ := strings.Cut(f.Tag.Get("json"), ",")
				if !f.IsExported() || f.Anonymous || member == "-" {
					continue
				}
				if member == "" {
					t.Fatalf("%v: %s has no name in JSON", of, f.Name)
				}
				properties[member] = schemaOfType(t, f.Type, defs)
				if !strings.Contains(option, "omitempty") {
					required = append(required, member)
				}
			}
			slices.Sort(required)
			defs[name] = map[string]any{"type": "object", "properties": properties, "required": required}
		}
		return map[string]any{"$ref": "#/$defs/" + name}
	}
	t.Fatalf("%v: no schema for such a type", of)
	return nil
}

// followsSchema checks each line that a command printed with --json against its schema.
func followsSchema(t *testing.T, called *cobra.Command, args []string, stdout string) {
	t.Helper()
	if !slices.Contains(args, "--json") || slices.Contains(args, "--help") || called.Name() == "example" || called.Name() == "help" || called.Hidden {
		return
	}
	command := called.CommandPath()
	if called.HasSubCommands() {
		command = "imxcrypt version" // it, or the line of a failure
	}
	text, err := os.ReadFile(filepath.Join("../..", schemaFile(command)))
	if err != nil {
		t.Error(err)
		return
	}
	var s schema
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		t.Errorf("%s: %v", schemaFile(command), err)
		return
	}
	if stdout == "" {
		t.Errorf("%v: no JSON", args)
	}
	for line := range strings.Lines(stdout) {
		for _, v := range validate(t, &s, line) {
			t.Errorf("%v: %s\n%s", args, v, line)
		}
	}
}

// checkRun checks what holds for every run: with --json its output follows the command's
// schema, and the command's help names its exit code.
func checkRun(t *testing.T, args []string, code int, stdout string) {
	t.Helper()
	called, _, err := (&app{}).root().Find(args)
	if err != nil {
		called = (&app{}).root()
	}
	followsSchema(t, called, args, stdout)
	if _, codes, _ := strings.Cut(called.Long, "Exit codes:\n"); codes != "" && !strings.Contains("\n"+codes, "\n  "+strconv.Itoa(code)+"  ") {
		t.Errorf("%v ended with exit code %d, which %s --help does not name", args, code, called.CommandPath())
	}
}
