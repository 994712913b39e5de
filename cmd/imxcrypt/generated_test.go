// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// troubleshooting is generated for the part of the troubleshooting page that
// stands between the marks of a name.
func troubleshooting(t *testing.T, part, want string) {
	t.Helper()
	const name = "docs/troubleshooting.md"
	begin, end := "<!-- "+part+": made by the tests -->\n", "<!-- end of "+part+" -->\n"
	page, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the part %s", name, part)
	}
	generated(t, name, before+begin+want+end+after)
}

// Everything that doctor can complain of stands on the troubleshooting page,
// in its words, with its remedy.
//
// Not parallel: another test writes the page's other part.
func TestTroubleshootingPageHasWhatDoctorSays(t *testing.T) {
	var b strings.Builder
	verb := regexp.MustCompile(`%[a-z]`)
	for _, f := range doctor.Findings() {
		b.WriteString("\n### doctor: " + f.ID + "\n\n")
		b.WriteString("    " + string(f.Level) + "  " + f.Check + "  " + verb.ReplaceAllString(f.Text, "…") + "\n\n")
		b.WriteString("**What to do:** " + f.Remedy + ".\n")
	}
	b.WriteString("\n")
	troubleshooting(t, "doctor", b.String())
}

// documented holds the names that a page of the repository lists to those that
// the program's text has.
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
