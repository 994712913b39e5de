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

// Marks are what a boot in an initramfs leaves for the real system, in a directory below
// /run, which survives the switch of the root: one empty file for each volume that was
// opened, named after its mapping. The udev rule in packaging/udev also looks for it.
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
	// Which one it is depends on the kernel command line (init/do_mounts.c).
	magic := uint32(st.Type)
	return magic == unix.RAMFS_MAGIC || magic == unix.TMPFS_MAGIC
}
