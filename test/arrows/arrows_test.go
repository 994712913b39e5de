// SPDX-License-Identifier: Apache-2.0

// Package arrows checks the direction of the imports: they only point down, and only
// one package knows each of the larger modules.
package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "imxcrypt"

// layers lists, for each top-level folder, the folders that it may import. Every folder
// may import internal, which imports nothing of ours but internal.
func layers() map[string][]string {
	return map[string][]string{
		"cmd":       {"boot", "sleep", "bench", "volume", "configs"},
		"boot":      {"volume", "configs"},
		"sleep":     {"volume", "dmcrypt"},
		"bench":     {"volume", "caam", "dmcrypt"},
		"volume":    {"reencrypt", "luks2", "caam", "keyring", "dmcrypt"},
		"reencrypt": {}, "luks2": {}, "caam": {}, "keyring": {}, "dmcrypt": {}, "configs": {}, "internal": {},
	}
}

// owners lists, for each module, the folders that may import it.
func owners() map[string][]string {
	return map[string][]string{
		"github.com/anatol/devmapper.go": {"dmcrypt"},
		"github.com/spf13/viper":         {"configs"},
		"github.com/spf13/cobra":         {"cmd"},
		"github.com/jsipprell/keyctl":    {}, // tests only
	}
}

// rooms lists, for each folder of volume, the folders of volume that it may import.
// volume itself may import all of them.
func rooms() map[string][]string {
	return map[string][]string{
		"spec":    {},
		"header":  {"spec"},
		"source":  {"spec"},
		"mapping": {"spec", "header", "source"},
	}
}

func TestRoomsOfVolumePointDown(t *testing.T) {
	const prefix = module + "/volume/"
	seen := 0
	for _, p := range packages(t) {
		from, inside := strings.CutPrefix(p.ImportPath, prefix)
		if !inside || from == "volumetest" {
			continue
		}
		allowed, known := rooms()[from]
		if !known {
			t.Errorf("the layout has no room %q in volume", from)
			continue
		}
		seen++
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, prefix)
			if ours && !slices.Contains(allowed, to) || imported == module+"/volume" {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
			if from == "header" && slices.Contains([]string{module + "/keyring", module + "/dmcrypt"}, imported) {
				t.Errorf("%s knows the kernel: it imports %s", p.ImportPath, imported)
			}
		}
	}
	if seen != len(rooms()) {
		t.Errorf("%d of %d rooms are there", seen, len(rooms()))
	}
}

type goPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var list []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// folder returns the top-level folder of one of our packages, or "".
func folder(path string) string {
	rest, ours := strings.CutPrefix(path, module+"/")
	if !ours {
		return ""
	}
	top, _, _ := strings.Cut(rest, "/")
	return top
}

func TestImportsPointDown(t *testing.T) {
	list := packages(t)
	if len(list) < 10 {
		t.Fatalf("go list found %d packages only", len(list))
	}
	for _, p := range list {
		from := folder(p.ImportPath)
		if from == "test" {
			continue // may import everything
		}
		allowed, known := layers()[from]
		if !known {
			t.Errorf("%s: the layout has no folder %q", p.ImportPath, from)
			continue
		}
		for _, imported := range p.Imports {
			to := folder(imported)
			if to == "" || to == from || to == "internal" {
				continue
			}
			if !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
		}
	}
}

func TestModulesAreKnownToOnePackage(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			for m, allowed := range owners() {
				if (imported == m || strings.HasPrefix(imported, m+"/")) && !slices.Contains(allowed, folder(p.ImportPath)) {
					t.Errorf("%s imports %s", p.ImportPath, imported)
				}
			}
		}
	}
}
