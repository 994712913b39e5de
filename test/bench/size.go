// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"imxcrypt/test/vm"
)

// The largest size of the program on arm64, in bytes: stripped, and compressed with xz.
// TestSizeBudget enforces it.
const (
	sizeBudget   = 8_400_000
	packedBudget = 2_600_000
)

// size prints how much memory and storage the program takes.
func (h *host) size(arch vm.Arch, binary string, runs []*run) {
	st, err := os.Stat(binary)
	if err != nil {
		h.Fatalf("%v", err)
	}
	packed, err := exec.Command("xz", "--keep", "--stdout", binary).Output()
	if err != nil {
		h.Fatalf("xz: %v", err)
	}
	target := ""
	if arch == vm.ARM64 {
		target = fmt.Sprintf("  (targets %.1f and %.1f)", sizeBudget/1e6, packedBudget/1e6)
	}
	fmt.Printf("size: program %.2f MB, %.2f MB xz%s\n", float64(st.Size())/1e6, float64(len(packed))/1e6, target)
	for _, r := range runs {
		if r.name == hello || r.name == programOne || r.name == programAll {
			fmt.Printf("most memory: %-26s %5.1f MB\n", r.name, float64(median(r.memory))*1024/1e6)
		}
	}
}

// compile builds a static C program of test/bench/guest, like the simulated CAAM's own
// tools (test/simcaam/build).
func (h *host) compile(arch vm.Arch, name string) string {
	if text, err := exec.Command("test/tools/fetch-debian", string(arch), "build/debian", "libc6-dev", "linux-libc-dev").CombinedOutput(); err != nil {
		h.Fatalf("fetch the C library: %v\n%s", err, text)
	}
	triplet := map[vm.Arch]string{vm.AMD64: "x86_64-linux-gnu", vm.ARM64: "aarch64-linux-gnu"}[arch]
	out := filepath.Join(h.TempDir(), name)
	cmd := exec.Command(triplet+"-gcc-12", "--sysroot=build/debian/"+string(arch)+"/root", "-static", "-O2", "-Wall", "-Wextra",
		"-o", out, "test/bench/guest/"+name+".c")
	if text, err := cmd.CombinedOutput(); err != nil {
		h.Fatalf("%s: %v\n%s", cmd, err, text)
	}
	return out
}
