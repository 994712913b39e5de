// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// maxFile limits the size of a file: a thousand volumes need a tenth of it.
const maxFile = 1 * mib

// read returns the file's bytes, all from one descriptor.
//
// It follows a symbolic link, because files under /etc are links on systems that are
// built from a store or from layers (Nix, OSTree, Yocto's alternatives). The checks apply
// to the opened file: it must be a regular file owned by root that no one else can write
// to. The folders of the name and of the link's target must also belong to root, so that
// no one else can choose which of root's files it is.
func read(path string, anyOwner bool) ([]byte, error) {
	if !anyOwner {
		if err := checkFolders(path); err != nil {
			return nil, err
		}
	}
	// Non-blocking: opening a pipe would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, openError(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{File: path, code: fault.FileUnsafe, Reason: "is not a regular file",
			Remedy: "name the file that holds the configuration"}
	}
	if !anyOwner {
		if err := checkOwner(path, path, info); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &Error{File: path, code: fault.IOFailed, Reason: "cannot be read", Err: cause(err)}
	}
	if len(data) > maxFile {
		return nil, &Error{File: path, code: fault.ConfigInvalid, Reason: "is larger than " + formatSize(maxFile),
			Remedy: "check that this is the configuration"}
	}
	return data, nil
}

// checkFolders checks the folder that holds the file and, if the file is a link,
// the link's owner and its target's folder.
func checkFolders(path string) error {
	entry, err := os.Lstat(path)
	if err != nil {
		return openError(path, err)
	}
	folders := []string{filepath.Dir(path)}
	if entry.Mode()&fs.ModeSymlink != 0 {
		if uid := ownerOf(entry); uid != 0 {
			return notRoots(path, path, uid)
		}
		end, err := filepath.EvalSymlinks(path)
		if err != nil {
			return openError(path, err)
		}
		folders = append(folders, filepath.Dir(end))
	}
	for _, dir := range folders {
		info, err := os.Stat(dir)
		if err != nil {
			return openError(path, err)
		}
		// In a sticky folder only its owner can replace the file.
		if info.Mode()&fs.ModeSticky != 0 && ownerOf(info) == 0 {
			continue
		}
		if err := checkOwner(path, dir, info); err != nil {
			return err
		}
	}
	return nil
}

// checkOwner refuses what users other than root can write to. name is what info
// describes: the file itself or a folder on the way to it.
func checkOwner(path, name string, info fs.FileInfo) error {
	if uid := ownerOf(info); uid != 0 {
		return notRoots(path, name, uid)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return &Error{File: path, code: fault.ConfigUntrusted,
			Reason: fmt.Sprintf("%s can be written by users other than root (mode %04o)", name, mode),
			Remedy: "chmod go-w " + name}
	}
	return nil
}

func notRoots(path, name string, uid uint32) error {
	return &Error{File: path, code: fault.ConfigUntrusted,
		Reason: fmt.Sprintf("%s belongs to user %d, not to root", name, uid),
		Remedy: "chown root:root " + name}
}

func ownerOf(info fs.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return ^uint32(0)
}

func openError(path string, err error) error {
	e := &Error{File: path, Reason: "cannot be opened", Err: cause(err), code: fault.Failed}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.code, e.Reason, e.Err = fault.ConfigMissing, "there is no such file", nil
		if target, err := os.Readlink(path); err == nil && target != os.DevNull {
			e.Reason += ", only a symbolic link to " + target
		}
		e.Remedy = "write one (`imxcrypt config example minimal` prints one to begin with), or name another with --config"
	case errors.Is(err, fs.ErrPermission):
		e.code, e.Remedy = fault.PermissionMissing, "run as root"
	}
	return e
}

// cause strips the path from err, because the message begins with it.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
