// SPDX-License-Identifier: Apache-2.0

package fault_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"imxcrypt/internal/fault"
)

// codes reads the constants from their source, so that none is forgotten.
func codes(t *testing.T) map[string]fault.Code {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
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

func TestEveryCodeHasOneRow(t *testing.T) {
	t.Parallel()
	rows := map[fault.Code]int{}
	for _, f := range fault.Table() {
		rows[f.Code]++
	}
	for name, code := range codes(t) {
		if rows[code] != 1 {
			t.Errorf("fault.%s (%s) has %d rows in the table", name, code, rows[code])
		}
		delete(rows, code)
	}
	for code := range rows {
		t.Errorf("the table has a row for %q, which is no constant", code)
	}
}

// The identifiers are an interface: distinct, and of one form.
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

// Exit code 1 is a decision, not an omission.
func TestEveryCodeHasItsExitCode(t *testing.T) {
	t.Parallel()
	withOne := map[fault.Code]bool{
		fault.Failed: true, fault.CAAMFailed: true, fault.KeyNotInKeyring: true, fault.ProgramFailed: true,
		fault.IOFailed: true, fault.StorageFull: true, fault.VolumeNotUp: true,
		fault.NotMounted: true, fault.MountedReadOnly: true, fault.PartitionGrown: true,
	}
	for name, code := range codes(t) {
		got := fault.ExitOf(fault.New(code, "what", nil))
		if (got == fault.ExitFailed) != withOne[code] || got <= fault.ExitDone || got > fault.ExitHeaderDamaged {
			t.Errorf("fault.%s (%s) ends with exit code %d: is that meant?", name, code, got)
		}
	}
	if fault.ExitOf(nil) != fault.ExitDone || fault.ExitOf(errors.New("anything")) != fault.ExitFailed ||
		fault.ExitOf(fault.New("from a later version", "what", nil)) != fault.ExitFailed {
		t.Error("success, an error without a code, or an unknown code")
	}
}

// Exit codes are an interface: their numbers never change.
func TestExitCodesStay(t *testing.T) {
	t.Parallel()
	meanings := []string{"done", "failed", "usage", "key rejected", "device or kernel", "busy", "refused", "interrupted", "header damaged"}
	for i, meaning := range meanings {
		if got := fault.Exit(i).String(); !strings.HasPrefix(got, meaning) {
			t.Errorf("exit code %d means %q, expected %q", i, got, meaning)
		}
	}
	if last := int(fault.ExitHeaderDamaged); last != len(meanings)-1 {
		t.Errorf("the last exit code is %d", last)
	}
}

func TestHints(t *testing.T) {
	t.Parallel()
	destroys := regexp.MustCompile(`imxcrypt erase|--wipe|luksErase|luksFormat|\bmkfs|wipefs|blkdiscard|wipe_table`)
	for _, f := range fault.Table() {
		sentences := strings.Split(f.Hint, ". ")
		first := sentences[0]
		switch {
		case first == "":
			t.Errorf("%s has no hint", f.Code)
		case strings.TrimSpace(f.Hint) != f.Hint || strings.HasSuffix(f.Hint, ".") || strings.Contains(f.Hint, "\n"):
			t.Errorf("%s: not one line without a full stop: %q", f.Code, f.Hint)
		case len(sentences) > 2:
			t.Errorf("%s: %d sentences: %q", f.Code, len(sentences), f.Hint)
		case destroys.MatchString(first):
			t.Errorf("%s: the first advice destroys: %q", f.Code, first)
		case strings.Count(f.Hint, "`")%2 != 0:
			t.Errorf("%s: a command is not closed: %q", f.Code, f.Hint)
		}
	}
}
