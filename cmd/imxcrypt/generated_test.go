// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// generated compares a file of the repository with what the program would write there.
// `make docs` writes the file, with IMXCRYPT_UPDATE=1.
func generated(t *testing.T, name, want string) {
	t.Helper()
	path := filepath.Join("../..", name)
	if os.Getenv("IMXCRYPT_UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not up to date: run make docs", name)
	}
}

// documented compares the names that a page of the repository lists with those in the
// program's text.
func documented(t *testing.T, page string, listed, there *regexp.Regexp, text string) {
	t.Helper()
	have, err := os.ReadFile(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	names := func(re *regexp.Regexp, text string) (all []string) {
		for _, m := range re.FindAllStringSubmatch(text, -1) {
			all = append(all, m[1])
		}
		slices.Sort(all)
		return all
	}
	if got, want := names(listed, string(have)), names(there, text); !slices.Equal(got, want) {
		t.Errorf("%s has\n%q, the program\n%q", page, got, want)
	}
}
