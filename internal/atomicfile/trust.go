// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Trusted refuses a file that users other than root can change or replace. It checks the
// file, the folder of its name and, if the name is a link, the link and the folder of its
// target.
func Trusted(path string) error {
	entry, err := os.Lstat(path)
	if err != nil {
		return failed("trust", path, err)
	}
	folders, end := []string{filepath.Dir(path)}, path
	if entry.Mode()&fs.ModeSymlink != 0 {
		if err := rootsOnly("the link "+path, entry, 0); err != nil {
			return failed("trust", path, err)
		}
		if end, err = filepath.EvalSymlinks(path); err != nil {
			return failed("trust", path, err)
		}
		folders = append(folders, filepath.Dir(end))
	}
	for _, dir := range folders {
		if err := rootsFolder(dir); err != nil {
			return failed("trust", path, err)
		}
	}
	info, err := os.Stat(end)
	if err != nil {
		return failed("trust", path, err)
	}
	if !info.Mode().IsRegular() {
		return failed("trust", path, ErrNotRegular)
	}
	if err := rootsOnly("the file "+end, info, 0o022); err != nil {
		return failed("trust", path, err)
	}
	return nil
}

// TrustedFolder refuses a folder in which users other than root can replace root's files.
func TrustedFolder(dir string) error {
	if err := rootsFolder(dir); err != nil {
		return failed("trust", dir, err)
	}
	return nil
}

func rootsFolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	forbidden := fs.FileMode(0o022)
	if info.Mode()&fs.ModeSticky != 0 {
		forbidden = 0 // only its owner can replace the file
	}
	return rootsOnly("the folder "+dir, info, forbidden)
}

// rootsOnly refuses anything that root does not own or that has forbidden permissions.
func rootsOnly(what string, info fs.FileInfo, forbidden fs.FileMode) error {
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 {
		return fmt.Errorf("%s: %w", what, ErrOwner)
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return fmt.Errorf("%s: %w: %04o, users other than root can write to it", what, ErrMode, mode)
	}
	return nil
}
