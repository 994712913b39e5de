// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// The troubleshooting page has an entry for each code, and for nothing else.
func TestTroubleshootingPageHasEveryCode(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	var entries []string
	for _, m := range regexp.MustCompile(`(?m)^### (.+)$`).FindAllStringSubmatch(string(page), -1) {
		if slices.Contains(entries, m[1]) {
			t.Errorf("%s stands on the page twice", m[1])
		}
		entries = append(entries, m[1])
	}
	for code := range hints() {
		if !slices.Contains(entries, string(code)) {
			t.Errorf("%s has a hint and no entry", code)
		}
	}
	// The other way round: every entry is a code of the catalogue.
	source, err := os.ReadFile("../../internal/fault/codes.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`"([a-z-]+)"`).FindAllStringSubmatch(string(source), -1) {
		if !slices.Contains(entries, m[1]) {
			t.Errorf("code %s has no entry", m[1])
		}
	}
}
