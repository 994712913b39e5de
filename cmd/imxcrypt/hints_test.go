// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"imxcrypt/internal/fault"
)

// codes reads the catalogue from its source: a constant that nobody lists
// anywhere cannot be forgotten here.
func codes(t *testing.T) map[string]fault.Code {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../internal/fault/codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]fault.Code{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			text, err := strconv.Unquote(spec.Values[i].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			all[name.Name] = fault.Code(text)
		}
		return true
	})
	if len(all) < 40 {
		t.Fatalf("only %d codes found", len(all))
	}
	return all
}

// failsWithOne are the codes that are meant to end with exit code 1; every
// other one has a decision in exitCode.
func failsWithOne() map[fault.Code]bool {
	return map[fault.Code]bool{
		fault.Failed: true, fault.CAAMFailed: true, fault.KeyNotInKeyring: true, fault.ProgramFailed: true,
		fault.IOFailed: true, fault.StorageFull: true, fault.VolumeNotUp: true,
	}
}

func TestEveryCodeHasItsExitCode(t *testing.T) {
	t.Parallel()
	for name, code := range codes(t) {
		got := exitCode(fault.New(code, "what", nil))
		if (got == exitFailed) != failsWithOne()[code] {
			t.Errorf("fault.%s (%s) ends with exit code %d: is that meant?", name, code, got)
		}
	}
	if exitCode(nil) != exitDone || exitCode(errors.New("anything")) != exitFailed {
		t.Error("success, or an error without a code")
	}
}

func TestEveryCodeHasAHint(t *testing.T) {
	t.Parallel()
	known := map[fault.Code]bool{}
	for name, code := range codes(t) {
		known[code] = true
		text := hint(fault.New(code, "what", nil))
		if text == "" {
			t.Errorf("fault.%s (%s) has no hint", name, code)
		}
		if strings.HasSuffix(text, ".") || strings.TrimSpace(text) != text {
			t.Errorf("fault.%s: %q", name, text)
		}
	}
	for code := range hints() {
		if !known[code] {
			t.Errorf("a hint for %q, which is no code", code)
		}
	}
}

// The identifiers are an interface, and so distinct and of one form.
func TestCodesAreDistinct(t *testing.T) {
	t.Parallel()
	seen := map[fault.Code]string{}
	for name, code := range codes(t) {
		if other, twice := seen[code]; twice {
			t.Errorf("%s and %s are both %q", name, other, code)
		}
		seen[code] = name
		if strings.Trim(string(code), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("%s: %q", name, code)
		}
	}
}
