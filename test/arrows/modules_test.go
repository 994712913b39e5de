// SPDX-License-Identifier: Apache-2.0

package arrows

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"
)

// Every module is the published one: with a replacement, `go mod graph` and an SBOM
// would name modules that are not in the program.
func TestNoModuleIsReplaced(t *testing.T) {
	text, err := exec.Command("go", "list", "-m", "-json=Path,Version,Replace", "all").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	count := 0
	for d.More() {
		var m struct {
			Path, Version string
			Replace       *struct{ Path string }
		}
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		count++
		if m.Replace != nil {
			t.Errorf("%s is replaced by %s", m.Path, m.Replace.Path)
		}
	}
	if count < 10 {
		t.Errorf("go list found %d modules only", count)
	}
}
