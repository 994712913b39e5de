// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Volatile writes a file below /run, replacing whatever has the name, and creates
// its folder (0700) if that is missing. Readers find either the old contents or
// the new ones, whole. Nothing is flushed, since the file is lost with the power
// anyway: four system calls where [Replace] takes two dozen, for what each boot
// writes. perm is subject to the umask. Errors are *Error.
func Volatile(path string, data []byte, perm fs.FileMode) error {
	const op = "replace"
	dir, name := filepath.Split(path)
	// The PID keeps two processes from writing to one file. Within a process the
	// caller must not write a name twice at a time.
	temp := filepath.Join(dir, "."+name+"."+strconv.Itoa(os.Getpid()))
	fd, err := create(temp, perm)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return failed(op, path, err)
		}
		fd, err = create(temp, perm)
	}
	if err != nil {
		return failed(op, path, err)
	}
	n, err := unix.Write(fd, data)
	if err == nil && n < len(data) {
		err = unix.ENOSPC // tmpfs writes everything, or as much as fits
	}
	err = errors.Join(err, unix.Close(fd))
	if err == nil {
		err = unix.Rename(temp, path)
	}
	if err != nil {
		_ = unix.Unlink(temp)
		return failed(op, path, err)
	}
	return nil
}

// create creates a file. An existing one was left by a killed process of the same
// PID.
func create(path string, perm fs.FileMode) (int, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open(path, flags, uint32(perm.Perm()))
	if errors.Is(err, unix.EEXIST) {
		if err := unix.Unlink(path); err != nil {
			return -1, err
		}
		fd, err = unix.Open(path, flags, uint32(perm.Perm()))
	}
	return fd, err
}
