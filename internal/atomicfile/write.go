// SPDX-License-Identifier: Apache-2.0

// Package atomicfile writes small regular files so that after a power cut at
// any moment either the old contents are there or the new ones, whole, and
// reads them with suspicion.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Create writes a new file and returns when it is durable. A file, folder or
// link that exists under the name is left alone: errors.Is(err, fs.ErrExist).
// perm is set exactly, whatever the umask. Errors are *Error.
func Create(path string, data []byte, perm fs.FileMode) error {
	return write("create", path, data, perm, publishNew)
}

// Replace writes a file over whatever regular file has the name, or creates
// it, and returns when it is durable. A link or folder under the name is
// refused. perm is set exactly. Errors are *Error.
func Replace(path string, data []byte, perm fs.FileMode) error {
	return write("replace", path, data, perm, publishOver)
}

// Remove removes a regular file or link and returns when that is durable. A
// file that does not exist is no error: the removal may have been what an
// earlier, interrupted run achieved.
func Remove(path string) error {
	dir, name, err := openParent(path)
	if err != nil {
		return failed("remove", path, err)
	}
	defer func() { _ = unix.Close(dir) }()
	if err := unix.Unlinkat(dir, name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("remove", path, err)
	}
	if err := unix.Fsync(dir); err != nil {
		return failed("remove", path, err)
	}
	return nil
}

// MkdirAll creates a folder and the missing ones above it, and returns when
// they are durable: a file in a folder that a power cut takes away is lost
// however well it was written itself.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	if st, err := os.Stat(path); err == nil {
		if !st.IsDir() {
			return failed("create folder", path, unix.ENOTDIR)
		}
		return nil
	}
	if parent := filepath.Dir(path); parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	dir, name, err := openParent(path)
	if err != nil {
		return failed("create folder", path, err)
	}
	defer func() { _ = unix.Close(dir) }()
	err = unix.Mkdirat(dir, name, uint32(perm.Perm()))
	if err == nil {
		err = unix.Fsync(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return failed("create folder", path, err)
	}
	return nil
}

// openParent opens the folder that path lies in: what follows works relative
// to it, and so in one folder, whatever is renamed meanwhile.
func openParent(path string) (dir int, name string, err error) {
	name = filepath.Base(path)
	if name == "." || name == ".." || name == "/" {
		return -1, "", unix.EISDIR
	}
	dir, err = unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return dir, name, err
}

type publish func(dir int, temp, name string) error

func write(op, path string, data []byte, perm fs.FileMode, pub publish) error {
	dir, name, err := openParent(path)
	if err != nil {
		return failed(op, path, err)
	}
	defer func() { _ = unix.Close(dir) }()
	// Before any work: the common case of a file that is already there.
	if err := checkTarget(dir, name, op == "create"); err != nil {
		return failed(op, path, err)
	}
	temp := "." + name + ".new"
	f, err := openTemp(dir, temp)
	if err != nil {
		return failed(op, path, err)
	}
	err = fill(f, data, perm)
	if err == nil {
		err = pub(dir, temp, name)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temp, 0)
		_ = f.Close()
		return failed(op, path, err)
	}
	// The lock on the file is held up to here, so that nobody else took the
	// temporary name while it was being renamed.
	if err := errors.Join(unix.Fsync(dir), f.Close()); err != nil {
		return failed(op, path, err)
	}
	return nil
}

// checkTarget looks at what has the name already.
func checkTarget(dir int, name string, mustBeFree bool) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case mustBeFree:
		return unix.EEXIST
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return ErrLink
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return ErrNotRegular
	}
	return nil
}

// openTemp opens the temporary file, locked and empty. Its name is always the
// same, so that the one left behind by a power cut is used again instead of
// adding to a heap of them; the lock keeps two writers apart.
func openTemp(dir int, temp string) (*os.File, error) {
	const tries = 100
	for range tries {
		fd, err := unix.Openat(dir, temp, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), temp)
		again, err := claim(dir, temp, fd)
		if err == nil && !again {
			return f, nil
		}
		_ = f.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, ErrWriter
}

// claim locks an opened temporary file. again says that another writer
// finished with it (it was renamed or removed) before the lock was had.
func claim(dir int, temp string, fd int) (again bool, err error) {
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, ErrWriter
		}
		return false, err
	}
	var open, named unix.Stat_t
	if err := unix.Fstat(fd, &open); err != nil {
		return false, err
	}
	if err := unix.Fstatat(dir, temp, &named, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	if open.Ino != named.Ino || open.Dev != named.Dev {
		return true, nil
	}
	if open.Mode&unix.S_IFMT != unix.S_IFREG || open.Nlink != 1 || open.Uid != uint32(os.Geteuid()) {
		return false, ErrNotRegular // planted: it would give others the contents
	}
	return false, unix.Ftruncate(fd, 0)
}

func fill(f *os.File, data []byte, perm fs.FileMode) error {
	if err := f.Chmod(perm.Perm()); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// publishOver gives the file its name, taking it from the old one.
func publishOver(dir int, temp, name string) error {
	return unix.Renameat(dir, temp, dir, name)
}

// publishNew gives the file its name only if that is free. Filesystems that
// cannot rename so (EINVAL, as old network ones) can link so.
func publishNew(dir int, temp, name string) error {
	err := unix.Renameat2(dir, temp, dir, name, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	if err := unix.Linkat(dir, temp, dir, name, 0); err != nil {
		return err
	}
	return unix.Unlinkat(dir, temp, 0)
}
