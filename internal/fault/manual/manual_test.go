// SPDX-License-Identifier: Apache-2.0

package manual_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/fault/manual"
)

// The program has the rows of this table; with IMXCRYPT_UPDATE it gets them.
func TestRowsOfTheProgramAreUpToDate(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("// SPDX-License-Identifier: Apache-2.0\n\n" +
		"// Code generated from package manual by `make docs`. DO NOT EDIT.\n\n" +
		"package fault\n\n" +
		"// Table has one row for each code, in the order of the troubleshooting page.\n" +
		"func Table() []Fault {\n\treturn []Fault{\n")
	for _, e := range manual.Entries() {
		fmt.Fprintf(&b, "\t\t{%q, %d, %q},\n", e.Code, e.Exit, e.Hint)
	}
	b.WriteString("\t}\n}\n")
	if os.Getenv("IMXCRYPT_UPDATE") != "" {
		if err := os.WriteFile("../rows.go", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if rows, err := os.ReadFile("../rows.go"); err != nil || string(rows) != b.String() {
		t.Errorf("internal/fault/rows.go is not up to date: run make docs (%v)", err)
	}
}

// One entry for each row, in its order, as the program was built with it.
func TestEveryFaultHasAnEntry(t *testing.T) {
	t.Parallel()
	table, entries := fault.Table(), manual.Entries()
	for i, e := range entries {
		if i >= len(table) || (fault.Fault{Code: e.Code, Exit: e.Exit, Hint: e.Hint}) != table[i] {
			t.Fatalf("entry %d, %q, is not what the program has: run make docs", i, e.Code)
		}
	}
	if len(entries) < len(table) {
		t.Fatalf("%q has no entry", table[len(entries)].Code)
	}
}

func TestEntriesAreComplete(t *testing.T) {
	t.Parallel()
	destroys := regexp.MustCompile(`imxcrypt erase|--wipe|luksErase|\bmkfs|wipefs|blkdiscard|wipe_table`)
	for _, e := range manual.Entries() {
		for what, text := range map[string]string{"meaning": e.Meaning, "remedy": e.Remedy()} {
			if !strings.HasSuffix(text, ".") || strings.TrimSpace(text) != text {
				t.Errorf("%s: the %s is not made of sentences: %q", e.Code, what, text)
			}
		}
		if strings.Contains(e.Meaning, ". ") {
			t.Errorf("%s: the meaning is more than one sentence: %q", e.Code, e.Meaning)
		}
		if first, _, _ := strings.Cut(e.Remedy(), ". "); destroys.MatchString(first) {
			t.Errorf("%s: the first advice destroys: %q", e.Code, first)
		}
		for _, m := range e.Messages {
			if strings.TrimSpace(m) != m || m == "" || strings.Contains(m, "\n") {
				t.Errorf("%s: not a message on one line: %q", e.Code, m)
			}
		}
	}
}

// The prose stays out of the program.
func TestTheProgramDoesNotCarryTheManual(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "imxcrypt/cmd/imxcrypt").Output()
	if err != nil {
		t.Fatal(err)
	}
	if deps := strings.Fields(string(out)); len(deps) < 50 {
		t.Fatalf("only %d packages", len(deps))
	}
	if strings.Contains(string(out), "imxcrypt/internal/fault/manual\n") {
		t.Error("the program imports internal/fault/manual")
	}
}
