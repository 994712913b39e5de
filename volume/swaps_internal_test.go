// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The header is the one that mkswap makes, byte for byte.
func TestSwapHeaderIsThatOfMkswap(t *testing.T) {
	t.Parallel()
	const uuid, size = "0f5c7d1e-3b2a-4c8d-9e6f-a1b2c3d4e5f6", 1 << 20
	mkswap, err := exec.LookPath("mkswap")
	if err != nil {
		mkswap = "/usr/sbin/mkswap"
	}
	if _, err := os.Stat(mkswap); err != nil {
		t.Skip("NOT TESTED: there is no mkswap to compare with")
	}
	path := filepath.Join(t.TempDir(), "area")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkswap, "-U", uuid, "-L", "swap", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	ours, err := swapHeader(size, page, uuid, "swap")
	if err != nil || !bytes.Equal(ours, all[:page]) {
		t.Fatalf("%v\n%x\n%x", err, ours[1024:1068], all[1024:1068])
	}
	if big, err := swapHeader(1<<45, page, uuid, "a long name of a volume"); err != nil || binary.NativeEndian.Uint32(big[1028:]) != 1<<32-1 || big[1067] != 0 {
		t.Errorf("of 32 TiB: %v", err)
	}
	if _, err := swapHeader(8*int64(page), page, uuid, ""); err == nil {
		t.Error("eight pages were taken")
	}
}
