// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// The stack is grown before the initialisers that would otherwise grow it: none of the
// initialisers before it needs a deep stack.
func TestTheStackGrowsFirst(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	place := map[string]int{}
	for i, line := range regexp.MustCompile(`(?m)^init (\S+) @`).FindAllStringSubmatch(string(out), -1) {
		place[line[1]] = i + 1
	}
	early := place["imxcrypt/internal/earlystack"]
	for _, deep := range []string{"internal/godebug", "os", "regexp", "go.yaml.in/yaml/v3", "imxcrypt/volume"} {
		if early == 0 || place[deep] < early && place[deep] != 0 {
			t.Errorf("earlystack is initialised as number %d, %s as number %d:\n%s", early, deep, place[deep], out)
		}
	}
}
