// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every test that docs/security.md names as proof exists, in the folder that is named
// before it.
func TestTheSecurityPagesTestsExist(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| cannot | shown by |")
	table, _, _ = strings.Cut(table, "\n\n")
	named := 0
	dir, have := "", []string{}
	for _, word := range regexp.MustCompile("`[a-z/]+`|Test[A-Za-z0-9]+").FindAllString(table, -1) {
		if strings.HasPrefix(word, "`") {
			dir, have = strings.Trim(word, "`"), nil
			have = testsIn(t, filepath.Join("../..", dir))
			continue
		}
		if named++; !slices.Contains(have, word) {
			t.Errorf("there is no %s in %s", word, dir)
		}
	}
	if named < 15 {
		t.Errorf("%d tests are named: the table is not where it was", named)
	}
}

// testsIn returns the tests of one folder.
func testsIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := fs.Glob(os.DirFS(dir), "*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}
