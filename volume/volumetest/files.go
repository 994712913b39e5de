// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
)

// Files is a small filesystem on a store of its own, so that what a power cut
// leaves of it can be enumerated together with the disks. A file appears whole
// or not at all: its contents are flushed before its entry, one sector, is
// written and flushed.
//
// The first half of the store holds the entries, one sector each {length u32,
// path}; entry n's contents lie in slot n of the second half.
type Files struct {
	mu    sync.Mutex
	store Store
	// Err is what Create fails with, instead of creating: a full disk.
	Err error
	// before is the board's Step.
	before func(what string) error
}

const (
	fileSlots = 16
	slotSize  = 2 << 20
	entrySize = 512
	slotsAt   = fileSlots * entrySize

	// FilesSize is what a store for Files needs, in bytes.
	FilesSize = slotsAt + fileSlots*slotSize
)

// NewFiles is the filesystem on a store, empty if the store is all zeros.
func NewFiles(store Store) *Files { return &Files{store: store} }

// NoFiles is an empty filesystem.
func NoFiles() *Files { return NewFiles(crashtest.NewImage(FilesSize)) }

func (f *Files) entry(n int) (path string, length int64, err error) {
	b := make([]byte, entrySize)
	if _, err := f.store.ReadAt(b, int64(n)*entrySize); err != nil {
		return "", 0, err
	}
	return strings.TrimRight(string(b[4:]), "\x00"), int64(binary.LittleEndian.Uint32(b)), nil
}

func (f *Files) slot(path string) (n int, length int64, err error) {
	for n := range fileSlots {
		p, length, err := f.entry(n)
		if err != nil {
			return 0, 0, err
		}
		if p == path {
			return n, length, nil
		}
	}
	return 0, 0, fs.ErrNotExist
}

// Create implements volume.Files.
func (f *Files) Create(path string, data []byte, _ fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Err != nil {
		return failed("create", path, f.Err)
	}
	if _, _, err := f.slot(path); err == nil {
		return failed("create", path, fs.ErrExist)
	}
	n, _, err := f.slot("")
	if err != nil || len(data) > slotSize {
		return failed("create", path, unix.ENOSPC)
	}
	if err := f.step("write " + path); err != nil {
		return err
	}
	if _, err := f.store.WriteAt(data, slotsAt+int64(n)*slotSize); err != nil {
		return err
	}
	if err := f.store.Flush(); err != nil {
		return err
	}
	if err := f.step("rename " + path); err != nil {
		return err
	}
	b := make([]byte, entrySize)
	binary.LittleEndian.PutUint32(b, uint32(len(data)))
	copy(b[4:], path)
	if _, err := f.store.WriteAt(b, int64(n)*entrySize); err != nil {
		return err
	}
	return f.store.Flush()
}

// Remove implements volume.Files. What the file held stays in its slot, as on
// a real disk.
func (f *Files) Remove(path string) error {
	if err := f.step("remove " + path); err != nil {
		return failed("remove", path, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, _, err := f.slot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failed("remove", path, err)
	}
	if _, err := f.store.WriteAt(make([]byte, entrySize), int64(n)*entrySize); err != nil {
		return err
	}
	return f.store.Flush()
}

// Read implements volume.Files.
func (f *Files) Read(path string, o atomicfile.ReadOptions) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, length, err := f.slot(path)
	if err != nil {
		return nil, failed("read", path, err)
	}
	if o.MaxSize > 0 && length > o.MaxSize {
		return nil, failed("read", path, atomicfile.ErrTooLarge)
	}
	data := make([]byte, length)
	_, err = f.store.ReadAt(data, slotsAt+int64(n)*slotSize)
	return data, err
}

func (f *Files) step(what string) error {
	if f.before == nil {
		return nil
	}
	return f.before(what)
}

// failed is an error as the real package has it.
func failed(op, path string, err error) error {
	code := fault.Failed
	switch {
	case errors.Is(err, fs.ErrExist):
		code = fault.FileExists
	case errors.Is(err, unix.ENOSPC):
		code = fault.StorageFull
	case errors.Is(err, atomicfile.ErrTooLarge):
		code = fault.FileUnsafe
	case errors.Is(err, unix.EIO):
		code = fault.IOFailed
	}
	return &atomicfile.Error{Op: op, Path: path, Code: code, Err: err}
}

// Names lists the files.
func (f *Files) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for n := range fileSlots {
		if p, _, err := f.entry(n); err == nil && p != "" {
			names = append(names, p)
		}
	}
	return names
}

// open gives a file as a store of its own, for a detached header.
func (f *Files) open(path string) (Store, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, length, err := f.slot(path)
	if err != nil {
		return nil, err
	}
	return window{store: f.store, at: slotsAt + int64(n)*slotSize, size: length}, nil
}

// window is a part of a store.
type window struct {
	store    Store
	at, size int64
}

func (w window) ReadAt(p []byte, off int64) (int, error) {
	if off >= w.size {
		return 0, unix.EINVAL
	}
	return w.store.ReadAt(p[:min(int64(len(p)), w.size-off)], w.at+off)
}

func (w window) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > w.size {
		return 0, unix.ENOSPC
	}
	return w.store.WriteAt(p, w.at+off)
}

func (w window) Flush() error { return w.store.Flush() }
func (w window) Size() int64  { return w.size }
