// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"path/filepath"

	"imxcrypt/test/vm/initramfs"
)

// Packages unpacks additional Debian packages for the guest's architecture, without
// their dependencies, and returns everything that is unpacked.
func Packages(t TB, arch Arch, names ...string) initramfs.Programs {
	t.Helper()
	p, err := arch.platform()
	if err != nil {
		t.Fatalf("vm: %v", err)
	}
	top, err := moduleRoot()
	if err == nil {
		_, err = fetchDebian(context.Background(), top, filepath.Join(top, "build/debian"), arch, names)
	}
	if err != nil {
		t.Fatalf("vm: packages: %v", err)
	}
	return initramfs.Programs{Root: filepath.Join(top, "build/debian", string(arch), "root"), Triplet: p.triplet}
}
