// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/atomicfile"
)

// Marks are left by a boot in an initramfs for the real system, in a directory
// below /run, which goes along when the root is switched: one empty file for
// each volume that was opened, by the name of its mapping. The rule of udev in
// packaging/udev looks for it too.
type Marks struct{ Dir string }

const markSuffix = ".initramfs"

// Leave marks a volume.
func (m Marks) Leave(mapping string) error {
	return atomicfile.Volatile(filepath.Join(m.Dir, mapping+markSuffix), nil, 0o600)
}

// Left reports whether a volume was marked.
func (m Marks) Left(mapping string) bool {
	_, err := os.Lstat(filepath.Join(m.Dir, mapping+markSuffix))
	return !errors.Is(err, fs.ErrNotExist)
}

// InInitramfs reports whether the root filesystem is one in memory that the kernel
// unpacked.
func InInitramfs() bool {
	var st unix.Statfs_t
	if unix.Statfs("/", &st) != nil {
		return false
	}
	// Either, by the kernel command line (init/do_mounts.c).
	magic := uint32(st.Type)
	return magic == unix.RAMFS_MAGIC || magic == unix.TMPFS_MAGIC
}
