// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imxcrypt/internal/doctor"
)

// generated holds a file of the repository to what the program would write
// there. IMXCRYPT_UPDATE=1 writes it anew.
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
		t.Errorf("%s is not up to date: IMXCRYPT_UPDATE=1 go test ./cmd/imxcrypt writes it anew", name)
	}
}

// Everything that doctor can complain of stands on the troubleshooting page,
// in its words, with its remedy.
func TestTroubleshootingPageHasWhatDoctorSays(t *testing.T) {
	t.Parallel()
	const name, begin, end = "docs/troubleshooting.md", "<!-- doctor: made by the tests -->\n", "<!-- end of doctor -->\n"
	page, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the findings of doctor", name)
	}
	var b strings.Builder
	verb := regexp.MustCompile(`%[a-z]`)
	for _, f := range doctor.Findings() {
		b.WriteString("\n### doctor: " + f.ID + "\n\n")
		b.WriteString("    " + string(f.Level) + "  " + f.Check + "  " + verb.ReplaceAllString(f.Text, "…") + "\n\n")
		b.WriteString("**What to do:** " + f.Remedy + ".\n")
	}
	b.WriteString("\n")
	generated(t, name, before+begin+b.String()+end+after)
}
