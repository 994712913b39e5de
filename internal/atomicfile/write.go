// SPDX-License-Identifier: Apache-2.0

// Package atomicfile writes small regular files so that after a power cut at any moment a
// file has either its old contents or its new ones, complete. It checks the files that it
// reads. [Volatile] is for files that a power cut may destroy.
package atomicfile

import (
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Create writes a new file and returns when it is durable. It leaves an existing file,
// folder or link of that name alone, and fails with fs.ErrExist. perm is set exactly,
// whatever the umask. Errors are *Error.
func (w Writer) Create(path string, data []byte, perm fs.FileMode) error {
	return w.write("create", path, data, perm)
}

// Replace creates a file, or replaces a regular file of that name, and returns when it is
// durable. It refuses a link or folder of that name. perm is set exactly. Errors are
// *Error.
func (w Writer) Replace(path string, data []byte, perm fs.FileMode) error {
	return w.write("replace", path, data, perm)
}

// Remove removes a regular file or link and returns when that is durable. A missing file
// is not an error: an earlier, interrupted run may have removed it.
func (w Writer) Remove(path string) error {
	return w.inFolder("remove", path, func(dir Folder, name string) error {
		if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return dir.Sync()
	})
}

// Settle returns when an existing file and its name are durable. If an interrupted run
// left the file, it may not be, and whatever relies on it would be lost too. It refuses
// a link or folder of that name.
func (w Writer) Settle(path string) error {
	return w.inFolder("flush", path, func(dir Folder, name string) error {
		at, err := dir.Stat(name)
		if err != nil {
			return err
		}
		if err := regular(at); err != nil {
			return err
		}
		f, err := dir.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close(), dir.Sync())
	})
}

// MkdirAll creates a folder and its missing parents, and returns when they are
// durable: a file is lost with its folder, however well it was written itself.
func (w Writer) MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	dir, err := w.FS.OpenFolder(path)
	if err == nil {
		err = dir.Close()
	}
	parent := filepath.Dir(path)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return failed("create folder", path, err)
	case parent == path:
		return nil // the root
	case err != nil:
		if err := w.MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	missing := err != nil
	return w.inFolder("create folder", path, func(dir Folder, name string) error {
		if missing {
			if err := dir.Mkdir(name, perm); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		// Sync even if it exists: its creator may have been killed before it was durable.
		return dir.Sync()
	})
}

// inFolder opens path's folder for one operation.
func (w Writer) inFolder(op, path string, do func(dir Folder, name string) error) error {
	name := filepath.Base(path)
	if name == "." || name == ".." || name == "/" {
		return failed(op, path, unix.EISDIR)
	}
	dir, err := w.FS.OpenFolder(filepath.Dir(path))
	if err != nil {
		return failed(op, path, err)
	}
	if err := errors.Join(do(dir, name), dir.Close()); err != nil {
		return failed(op, path, err)
	}
	return nil
}

func (w Writer) write(op, path string, data []byte, perm fs.FileMode) error {
	return w.inFolder(op, path, func(dir Folder, name string) error {
		// Check before any work, for the common case of an existing file.
		if err := checkTarget(dir, name, op == "create"); err != nil {
			return err
		}
		temp := "." + name + ".new"
		f, err := openTemp(dir, temp, name)
		if err != nil {
			return err
		}
		err = fill(f, data, perm)
		switch {
		case err != nil:
		case op == "create":
			err = dir.RenameNew(temp, name)
		default:
			err = dir.Rename(temp, name)
		}
		if err != nil {
			_ = dir.Remove(temp)
			_ = f.Close()
			return err
		}
		// The lock on the file is held until here, so that no other writer takes the
		// temporary name during the rename.
		return errors.Join(dir.Sync(), f.Close())
	})
}

// checkTarget checks an existing entry of that name.
func checkTarget(dir Folder, name string, mustBeFree bool) error {
	at, err := dir.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case mustBeFree:
		return unix.EEXIST
	}
	return regular(at)
}

func regular(at Info) error {
	switch {
	case at.Mode&fs.ModeSymlink != 0:
		return ErrLink
	case !at.Mode.IsRegular():
		return ErrNotRegular
	}
	return nil
}

// openTemp opens the temporary file, locked and empty. Its name is fixed, so that a file
// left by a power cut is reused and such files do not pile up. The lock keeps two writers
// apart.
func openTemp(dir Folder, temp, name string) (File, error) {
	const tries = 100
	for range tries {
		f, err := dir.Open(temp)
		if err != nil {
			return nil, err
		}
		again, err := claim(dir, temp, name, f)
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

// claim locks an opened temporary file. again means that another writer renamed
// or removed it before the lock was taken.
func claim(dir Folder, temp, name string, f File) (again bool, err error) {
	if err := f.Lock(); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, ErrWriter
		}
		return false, err
	}
	open, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := dir.Stat(temp)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	if open.ID != named.ID {
		return true, nil
	}
	if !open.Mode.IsRegular() || open.Links != 1 || !open.Mine {
		return false, ErrNotRegular // planted: others would get the contents
	}
	// If renaming is not atomic, a power cut leaves the file under both names.
	if at, err := dir.Stat(name); err == nil && at.ID == open.ID {
		return true, dir.Remove(temp)
	}
	return false, f.Empty()
}

func fill(f File, data []byte, perm fs.FileMode) error {
	if err := f.Chmod(perm.Perm()); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}
