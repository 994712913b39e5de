// SPDX-License-Identifier: Apache-2.0

package secret_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"imxcrypt/internal/secret"
)

// In a process of its own, since hardening cannot be undone.
func TestHardenDataLocksWhatCanBeWritten(t *testing.T) {
	const inChild = "IMXCRYPT_TEST_HARDEN"
	if os.Getenv(inChild) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHardenDataLocksWhatCanBeWritten$", "-test.v")
		cmd.Env = append(os.Environ(), inChild+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if strings.Contains(string(out), "--- SKIP") {
			t.Skipf("NOT TESTED: memory cannot be locked here (root may, or `ulimit -l unlimited`):\n%s", out)
		}
		return
	}
	if err := secret.HardenData(); err != nil && os.Geteuid() != 0 {
		t.Skip(err) // the parent reports it
	} else if err != nil {
		t.Fatal(err)
	}
	later := make([]byte, 64<<20) // needs a new mapping
	later[1<<20] = 1
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	written, head := 0, ""
	for line := range strings.Lines(string(smaps)) {
		if f := strings.Fields(line); len(f) >= 5 && strings.Contains(f[0], "-") && len(f[1]) == 4 {
			head = line
			continue
		}
		flags, ok := strings.CutPrefix(line, "VmFlags:")
		if !ok || strings.Fields(head)[1][1] != 'w' {
			continue
		}
		written++
		if !strings.Contains(flags, " lo") {
			t.Errorf("not locked: %s%s", head, flags)
		}
	}
	if written < 4 {
		t.Errorf("%d mappings that can be written", written)
	}
	if limits, err := os.ReadFile("/proc/self/limits"); err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("core dumps are possible: %v\n%s", err, limits)
	}
	fmt.Fprintln(os.Stderr, len(later))
}
