// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The released program stays within its budget.
func TestSizeBudget(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("NOT TESTED: builds the whole program, without -short only")
	}
	binary := filepath.Join(t.TempDir(), "imxcrypt")
	build := exec.Command("packaging/build", "arm64", binary, "./cmd/imxcrypt")
	build.Dir = "../.."
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	st, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := exec.Command("xz", "--keep", "--stdout", binary).Output()
	if err != nil {
		t.Fatalf("xz: %v", err)
	}
	if st.Size() > sizeBudget {
		t.Errorf("%d bytes, %d are allowed", st.Size(), sizeBudget)
	}
	if len(packed) > packedBudget {
		t.Errorf("%d bytes packed by xz, %d are allowed", len(packed), packedBudget)
	}
}
