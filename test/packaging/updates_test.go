// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// RAUC itself reads the configuration in docs/updates.md. It refuses unknown keys,
// groups and types.
func TestRAUCReadsItsConfiguration(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("rauc"); err != nil {
		t.Skip("NOT TESTED: RAUC's configuration in docs/updates.md (rauc is not installed: make setup)")
	}
	_, after, _ := strings.Cut(read(t, "docs/updates.md"), "# /etc/rauc/system.conf\n")
	configuration, _, found := strings.Cut(after, "```\n")
	if !found {
		t.Fatal("docs/updates.md has no configuration of RAUC")
	}
	for name, c := range map[string]struct{ text, says string }{
		"the page's": {configuration, "No such file: /no/bundle"},
		"a mistake":  {strings.Replace(configuration, "data-directory=", "data-folder=", 1), "Invalid key 'data-folder'"},
	} {
		file := filepath.Join(t.TempDir(), "system.conf")
		if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		out, _ := exec.Command("rauc", "--conf="+file, "info", "/no/bundle").CombinedOutput()
		if said := string(out); !strings.Contains(said, c.says) || c.text == configuration && strings.Contains(said, "Failed") {
			t.Errorf("%s: RAUC does not say %q:\n%s", name, c.says, said)
		}
	}
}
