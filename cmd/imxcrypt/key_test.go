// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A key that the driver truncates is not kept, and the error names the file that it came
// from, because no header is the reason.
func TestGivenKeyThatIsCutShort(t *testing.T) {
	t.Parallel()
	b := newRig(t, threeVolumes)
	b.board.Chip.SetOldKernel(true)
	dir := t.TempDir()
	file := filepath.Join(dir, "key.hex")
	if err := os.WriteFile(file, []byte(strings.Repeat("ab00", 8)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr := b.must(t, exitUsage, "key", "create", "red", "--dir", dir, "--hex-file", file)
	if !strings.Contains(stderr, "--hex-file "+file) || !strings.Contains(stderr, "zero byte") || strings.Contains(stderr, "header") {
		t.Error(stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "red.bb")); err == nil {
		t.Error("its blob was kept")
	}
}
