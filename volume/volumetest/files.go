// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"errors"
	"io/fs"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
)

// Files is a filesystem on a store of its own, so that what a power cut leaves of it can
// be enumerated together with the disks. Like the real one it is written by package
// atomicfile, over a [crashtest.Tree]. Directories are not modelled: every one exists.
type Files struct {
	tree *crashtest.Tree
	// Err is the error of Create and Replace, which then write nothing: a full disk.
	Err error
	// Unreadable is a path for which Read fails with EIO: a bad block.
	Unreadable string
	// Link is a path that is a symbolic link.
	Link string
	// Distrust is what Trusted returns for every file.
	Distrust error

	mu sync.Mutex
	// before is the board's Step.
	before func(what string) error
}

// FilesSize is the size in bytes of a store for Files.
const FilesSize = crashtest.TreeSize

// NewFiles returns the filesystem on a store, empty if the store is all zeros.
func NewFiles(store crashtest.Store) *Files {
	f := &Files{tree: crashtest.NewTree(store)}
	f.tree.Step = func(what string) error {
		if f.before == nil {
			return nil
		}
		defer func() {
			if killed := recover(); killed != nil {
				f.tree.Abandon()
				panic(killed)
			}
		}()
		return f.before(unflat(what))
	}
	return f
}

// NoFiles returns an empty filesystem.
func NoFiles() *Files { return NewFiles(crashtest.NewImage(FilesSize)) }

// flat turns a path into a name in the root directory.
func flat(path string) string { return "/" + strings.ReplaceAll(strings.Trim(path, "/"), "/", `\`) }

func unflat(name string) string { return strings.ReplaceAll(name, `\`, "/") }

func (f *Files) writer() atomicfile.Writer { return atomicfile.Writer{FS: f.tree} }

// named gives an error the path that the caller asked for.
func named(path string, err error) error {
	var of *atomicfile.Error
	if errors.As(err, &of) {
		of.Path = path
	}
	return err
}

// Create implements volume.Files.
func (f *Files) Create(path string, data []byte, perm fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Err != nil {
		return failed("create", path, f.Err)
	}
	return named(path, f.writer().Create(flat(path), data, perm))
}

// Replace implements volume.Files.
func (f *Files) Replace(path string, data []byte, perm fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Err != nil {
		return failed("replace", path, f.Err)
	}
	if path == f.Link {
		return failed("replace", path, atomicfile.ErrLink)
	}
	return named(path, f.writer().Replace(flat(path), data, perm))
}

// Settle implements volume.Files.
func (f *Files) Settle(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if path == f.Link {
		return failed("flush", path, atomicfile.ErrLink)
	}
	return named(path, f.writer().Settle(flat(path)))
}

// Remove implements volume.Files. What the file held stays in its slot, as on
// a real disk.
func (f *Files) Remove(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return named(path, f.writer().Remove(flat(path)))
}

// Read implements volume.Files.
func (f *Files) Read(path string, o atomicfile.ReadOptions) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, err := f.tree.File(flat(path))
	if err == nil && path == f.Unreadable {
		err = unix.EIO
	}
	if err != nil {
		return nil, failed("read", path, err)
	}
	if o.MaxSize > 0 && at.Size() > o.MaxSize {
		return nil, failed("read", path, atomicfile.ErrTooLarge)
	}
	data := make([]byte, at.Size())
	_, err = at.ReadAt(data, 0)
	return data, err
}

// Trusted implements volume.Files.
func (f *Files) Trusted(string) error { return f.Distrust }

// failed returns an error like the real package's.
func failed(op, path string, err error) error {
	code := fault.Failed
	switch {
	case errors.Is(err, fs.ErrExist):
		code = fault.FileExists
	case errors.Is(err, unix.ENOSPC):
		code = fault.StorageFull
	case errors.Is(err, atomicfile.ErrTooLarge), errors.Is(err, atomicfile.ErrLink):
		code = fault.FileUnsafe
	case errors.Is(err, unix.EIO):
		code = fault.IOFailed
	}
	return &atomicfile.Error{Op: op, Path: path, Code: code, Err: err}
}

// List implements volume.Files.
func (f *Files) List(dir string) ([]string, error) {
	var names []string
	for _, n := range f.Names() {
		if path.Dir(n) == path.Clean(dir) {
			names = append(names, path.Base(n))
		}
	}
	return names, nil
}

// Names lists the files.
func (f *Files) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, n := range f.tree.Names("/") {
		names = append(names, "/"+unflat(n))
	}
	return names
}

// open opens a file as a store of its own, for a detached header.
func (f *Files) open(path string) (Store, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tree.File(flat(path))
}
