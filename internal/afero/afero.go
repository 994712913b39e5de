// SPDX-License-Identifier: Apache-2.0

// Package afero stands in for the module of that name, which viper reads files
// through. Imxcrypt gives viper bytes and no files (package configs), but what
// viper could do is linked all the same, and the module's filesystem for web
// servers brings net/http, crypto/tls and their initialisers along: a tenth of
// the program, and of the time until its main function runs. go.mod replaces the
// module with this package.
//
// It holds what viper 1.21 and its locafero compile against, on the running
// system's files: a later viper that needs more fails to build, and what is
// here does what is expected of it.
package afero

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// File is an opened file.
type File interface {
	io.ReadWriteCloser
	Sync() error
}

// Fs is a filesystem. Errors are those of package os.
type Fs interface {
	Stat(name string) (fs.FileInfo, error)
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
}

// OsFs is the running system's filesystem.
type OsFs struct{}

// NewOsFs returns the running system's filesystem.
func NewOsFs() Fs { return OsFs{} }

// Stat is os.Stat.
func (OsFs) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// OpenFile is os.OpenFile.
func (OsFs) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err // a nil *os.File must not become a File that is not nil
	}
	return f, nil
}

// ReadFile reads a whole file.
func ReadFile(fsys Fs, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	return data, errors.Join(err, f.Close())
}

// Exists tells whether there is something of that name.
func Exists(fsys Fs, name string) (bool, error) {
	_, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Walk is filepath.Walk, and of a filesystem of another kind an error.
func Walk(fsys Fs, root string, walk filepath.WalkFunc) error {
	if _, ok := fsys.(OsFs); !ok {
		return errors.ErrUnsupported
	}
	return filepath.Walk(root, walk)
}
