// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// module is a module as described by go list.
type module struct {
	Path, Version, Dir string
	Main               bool
	Replace            *module
}

// linked returns the modules that are part of the program on any architecture.
func linked(t *testing.T) []module {
	t.Helper()
	all := map[string]module{}
	for _, arch := range []string{"amd64", "arm64", "arm"} {
		list := command(t, top, []string{"go", "list", "-deps", "-json=Module", "./cmd/imxcrypt"}, "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
		for d := json.NewDecoder(strings.NewReader(list)); ; {
			var p struct{ Module *module }
			if err := d.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if p.Module != nil && !p.Module.Main && (p.Module.Replace == nil || p.Module.Replace.Version != "") {
				all[p.Module.Path] = *p.Module
			}
		}
	}
	var sorted []module
	for _, m := range all {
		sorted = append(sorted, m)
	}
	slices.SortFunc(sorted, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return sorted
}

// texts returns the files of a module whose names begin with one of the words, in any
// case.
func (m module) texts(t *testing.T, words ...string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if e.IsDir() || strings.HasSuffix(name, ".GO") || !slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(name, w) }) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(m.Dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Trim(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")+"\n")
	}
	return all
}

const rule = "\n--------------------------------------------------------------------------------\n"

// The texts that must accompany the program are those of its modules and of Go's
// standard library.
func TestLicencesAreThoseOfTheModules(t *testing.T) {
	t.Parallel()
	modules := linked(t)
	if len(modules) < 5 {
		t.Fatalf("go list found %d modules only", len(modules))
	}
	licences := strings.Builder{}
	licences.WriteString("The program imxcrypt is made of its own sources (LICENSE) and of the works below,\neach under its own licence. Made by the tests of test/packaging.\n")
	notice := strings.Builder{}
	notice.WriteString("imxcrypt\nCopyright the authors of imxcrypt\n\nThe program contains works of others: THIRD_PARTY_LICENSES. Made by the tests of\ntest/packaging.\n")
	goAuthors := ""
	for _, m := range modules {
		texts := m.texts(t, "LICENSE", "LICENCE", "COPYING", "PATENTS")
		if len(texts) == 0 {
			t.Errorf("%s %s has no licence", m.Path, m.Version)
		}
		if m.Path == "golang.org/x/sys" {
			goAuthors = texts[0]
		}
		fmt.Fprintf(&licences, "%s%s %s\n\n%s", rule, m.Path, m.Version, strings.Join(texts, "\n"))
		for _, text := range m.texts(t, "NOTICE") {
			fmt.Fprintf(&notice, "%s%s %s\n\n%s", rule, m.Path, m.Version, text)
		}
	}
	if !strings.Contains(goAuthors, "The Go Authors") {
		t.Fatalf("golang.org/x/sys is not under the licence of Go: %s", goAuthors)
	}
	fmt.Fprintf(&licences, "%sThe standard library and the runtime of Go (https://go.dev)\n\n%s", rule, goAuthors)
	upToDate(t, "THIRD_PARTY_LICENSES", licences.String())
	upToDate(t, "NOTICE", notice.String())
	upToDate(t, buildroot+"/package/imxcrypt/imxcrypt.hash", buildrootSums(t))
}

// buildrootSums returns the hash file of Buildroot's package, with all licences that
// the package names.
func buildrootSums(t *testing.T) string {
	t.Helper()
	const folder = buildroot + "/package/imxcrypt/"
	m := regexp.MustCompile(`(?m)^IMXCRYPT_LICENSE_FILES = (.*)$`).FindStringSubmatch(read(t, folder+"imxcrypt.mk"))
	if m == nil || m[1] != "LICENSE NOTICE THIRD_PARTY_LICENSES" {
		t.Fatalf("Buildroot's package names the licences %q", m)
	}
	var sums strings.Builder
	for line := range strings.Lines(read(t, folder+"imxcrypt.hash")) {
		if strings.HasPrefix(line, "#") {
			sums.WriteString(line)
		}
	}
	for _, file := range strings.Fields(m[1]) {
		fmt.Fprintf(&sums, "sha256  %x  %s\n", sha256.Sum256([]byte(read(t, file))), file)
	}
	return sums.String()
}

// upToDate checks a file of the repository against its expected text. IMXCRYPT_UPDATE=1
// writes the file.
func upToDate(t *testing.T, name, want string) {
	t.Helper()
	path := filepath.Join(top, name)
	if os.Getenv("IMXCRYPT_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not up to date: IMXCRYPT_UPDATE=1 go test ./test/packaging writes it", name)
	}
}
