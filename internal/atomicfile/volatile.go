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

// Volatile writes a file below /run, replaces any file of that name, and creates the
// folder (0700) if it is missing. Readers find either the old contents or the new ones,
// complete. Nothing is flushed, since a power cut loses the file anyway. That is four
// system calls instead of the two dozen of [Writer.Replace], for files that every boot
// writes. perm is subject to the umask. Errors are *Error.
func Volatile(path string, data []byte, perm fs.FileMode) error {
	const op = "replace"
	dir, name := filepath.Split(path)
	// The PID keeps two processes from writing to the same file. Within a process, the
	// caller must not write to one name concurrently.
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

// create creates a file. It replaces an existing one, which a killed process of the same
// PID left.
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
