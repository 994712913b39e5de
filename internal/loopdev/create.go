// SPDX-License-Identifier: Apache-2.0

package loopdev

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/fault"
)

// Room checks that an image of size bytes can be made at path: only root can change what
// is in its folder, and the filesystem has the room.
func (Images) Room(path string, size int64) error {
	dir := filepath.Dir(path)
	if err := atomicfile.TrustedFolder(dir); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return failed("look at "+dir, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return fault.Newf(fault.DeviceReadOnly, "%s is mounted read-only: no file can be made in it", dir)
	}
	free := int64(math.MaxInt64)
	if block := int64(st.Bsize); int64(st.Bavail) < free/block {
		free = int64(st.Bavail) * block
	}
	if free < size {
		return fault.Newf(fault.StorageFull, "%s has room for %d bytes, and %s is to have %d", dir, free, path, size)
	}
	return nil
}

// Make makes an image of size bytes at path, which reads as zeros, has all its blocks
// allocated and is for root alone. It appears complete and durable, or not at all: until
// then it has no name, and disappears with the process. A name that is taken is an error
// of code file-exists.
func (Images) Make(path string, size int64) (err error) {
	dir := filepath.Dir(path)
	folder, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("open "+dir, err)
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	fd, err := unix.Openat(int(folder.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return cannot(path, size, err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := file.Chmod(0o600); err != nil {
		return failed("make "+path, err)
	}
	if err := allocate(fd, size); err != nil {
		return cannot(path, size, err)
	}
	if err := file.Sync(); err != nil {
		return failed("make "+path, err)
	}
	// Link the descriptor itself: there may be no /proc in an initramfs.
	if err := unix.Linkat(fd, "", int(folder.Fd()), filepath.Base(path), unix.AT_EMPTY_PATH); err != nil {
		return cannot(path, size, err)
	}
	if err := folder.Sync(); err != nil {
		return failed("make "+path+" durable", err)
	}
	return nil
}

func allocate(fd int, size int64) error {
	for {
		if err := unix.Fallocate(fd, 0, 0, size); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// cannot explains why a file cannot be made.
func cannot(path string, size int64, err error) error {
	what := fmt.Sprintf("make %s of %d bytes", path, size)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR):
		return fault.New(fault.DeviceUnsuitable, what+": its filesystem cannot allocate a file at once (O_TMPFILE, fallocate); make it by hand, filled with zeros, mode 0600", err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fault.New(fault.StorageFull, what, err)
	case errors.Is(err, unix.EFBIG):
		return fault.New(fault.DeviceUnsuitable, what+": larger than its filesystem allows", err)
	case errors.Is(err, unix.EEXIST):
		return fault.New(fault.FileExists, what, err)
	}
	return failed(what, err)
}
