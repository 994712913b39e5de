// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// FS is the filesystem to write through: the kernel's, or in a test one that loses
// power. Errors are errnos, or wrap them.
type FS interface {
	// OpenFolder opens a folder for reading.
	OpenFolder(path string) (Folder, error)
}

// Folder is an open folder. All names are names of its entries.
type Folder interface {
	// Stat describes the entry of that name. It does not follow a link.
	Stat(name string) (Info, error)
	// Open opens a file for writing, or creates it with mode 0600. It does not
	// follow a link and does not wait for a fifo's other end.
	Open(name string) (File, error)
	// Rename replaces an existing entry of the new name; RenameNew fails with fs.ErrExist
	// instead.
	Rename(from, to string) error
	RenameNew(from, to string) error
	Remove(name string) error
	Mkdir(name string, perm fs.FileMode) error
	// Sync returns when the names are durable.
	Sync() error
	Close() error
}

// File is an opened file.
type File interface {
	io.Writer
	// Lock fails with EWOULDBLOCK while another open file description holds it.
	Lock() error
	Stat() (Info, error)
	Empty() error
	Chmod(perm fs.FileMode) error
	// Sync returns when contents and mode are durable.
	Sync() error
	Close() error
}

// Info describes a file.
type Info struct {
	Mode  fs.FileMode // type and permissions
	Links uint64      // names of the file
	ID    [2]uint64   // device and inode
	Mine  bool        // owned by the caller
}

// Writer writes through a filesystem. The package's functions use the kernel's.
type Writer struct{ FS FS }

// Kernel is the Writer of the running system.
func Kernel() Writer { return Writer{kernel{}} }

// kernel is the kernel's FS.
type kernel struct{}

func (kernel) OpenFolder(path string) (Folder, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return folder(fd), nil
}

// folder is a descriptor. Operations are relative to it, so they stay in one folder
// whatever is renamed meanwhile.
type folder int

func (d folder) Stat(name string) (Info, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(d), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Info{}, err
	}
	return info(&st), nil
}

func info(st *unix.Stat_t) Info {
	mode := fs.FileMode(st.Mode).Perm()
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	default:
		mode |= fs.ModeIrregular
	}
	return Info{
		Mode: mode, Links: uint64(st.Nlink), ID: [2]uint64{uint64(st.Dev), st.Ino},
		Mine: st.Uid == uint32(os.Geteuid()),
	}
}

func (d folder) Open(name string) (File, error) {
	fd, err := unix.Openat(int(d), name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return file{os.NewFile(uintptr(fd), name)}, nil
}

func (d folder) Rename(from, to string) error { return unix.Renameat(int(d), from, int(d), to) }

// RenameNew renames only to a free name. On filesystems that cannot do this (EINVAL, such
// as old network ones) it links instead.
func (d folder) RenameNew(from, to string) error {
	err := unix.Renameat2(int(d), from, int(d), to, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	if err := unix.Linkat(int(d), from, int(d), to, 0); err != nil {
		return err
	}
	return unix.Unlinkat(int(d), from, 0)
}

func (d folder) Remove(name string) error { return unix.Unlinkat(int(d), name, 0) }

func (d folder) Mkdir(name string, perm fs.FileMode) error {
	return unix.Mkdirat(int(d), name, uint32(perm.Perm()))
}

func (d folder) Sync() error  { return unix.Fsync(int(d)) }
func (d folder) Close() error { return unix.Close(int(d)) }

type file struct{ *os.File }

func (f file) Lock() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

func (f file) Stat() (Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Info{}, err
	}
	return info(&st), nil
}

func (f file) Empty() error { return f.Truncate(0) }
