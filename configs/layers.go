// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"imxcrypt/internal/fault"
)

// The folders of the system's configuration: the owner's files, and under the same names
// the files of a vendor's image.
const (
	ownDir    = "/etc/imxcrypt"
	vendorDir = "/usr/lib/imxcrypt"
)

// maxFiles limits the drop-ins of one configuration.
const maxFiles = 256

// layers are the places of one configuration, in order of precedence. The first
// of mains that exists is the main file. A drop-in masks those of the same name
// in later folders.
type layers struct{ mains, dirs []string }

// layersOf returns the layers of the configuration that a path names: the file and the
// folder FILE.d, and for a file in /etc/imxcrypt also the vendor's.
func layersOf(file string) layers {
	l := layers{mains: []string{file}, dirs: []string{file + dropInSuffix}}
	if whole, err := filepath.Abs(file); err == nil && filepath.Dir(whole) == ownDir {
		vendor := filepath.Join(vendorDir, filepath.Base(whole))
		l.mains, l.dirs = append(l.mains, vendor), append(l.dirs, vendor+dropInSuffix)
	}
	return l
}

const dropInSuffix = ".d"

// source is the text of one file.
type source struct {
	file string
	data []byte
}

// read reads the files of a configuration in merge order: the main file, then
// the drop-ins by name. A file outside /etc/imxcrypt was named explicitly and
// must exist; in /etc/imxcrypt drop-ins alone are enough.
func (l layers) read(anyOwner bool) ([]source, error) {
	list, missing := l.readMain(anyOwner)
	if missing != nil && (len(l.mains) == 1 || !fault.Is(missing, fault.ConfigMissing)) {
		return nil, missing
	}
	paths, err := l.dropIns(anyOwner)
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		data, err := read(path, anyOwner)
		if fault.Is(err, fault.ConfigMissing) {
			// Not the same as no configuration: its volumes would be missing.
			return nil, &Error{File: path, Reason: "is a link that leads nowhere", Remedy: "remove it, or make what it leads to", code: fault.FileUnsafe}
		}
		if err != nil {
			return nil, err
		}
		list = append(list, source{path, data})
	}
	if len(list) == 0 {
		return nil, missing
	}
	return list, nil
}

// readMain reads the main file. If it does not exist or is masked, the error has
// the code config-missing.
func (l layers) readMain(anyOwner bool) ([]source, error) {
	for _, path := range l.mains {
		entry, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			masks, err := isMask(path, entry, anyOwner)
			if err != nil {
				return nil, err
			}
			if masks {
				break
			}
		}
		data, err := read(path, anyOwner)
		if err != nil {
			return nil, err
		}
		return []source{{path, data}}, nil
	}
	return nil, openError(l.mains[0], fs.ErrNotExist)
}

// dropIns lists the drop-ins by name.
func (l layers) dropIns(anyOwner bool) ([]string, error) {
	chosen := map[string]string{} // by name; empty where masked
	for _, dir := range l.dirs {
		entries, err := readDir(dir, anyOwner)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name, path := e.Name(), filepath.Join(dir, e.Name())
			if _, masked := chosen[name]; masked || !isDropIn(name) {
				continue
			}
			if misnamed(name) {
				return nil, &Error{File: path, Reason: "is not read: the name of a drop-in ends in .yaml",
					Remedy: "rename it to " + strings.TrimSuffix(name, filepath.Ext(name)) + ".yaml, or move it out of the folder"}
			}
			entry, err := e.Info()
			if err != nil {
				return nil, openError(path, err)
			}
			masks, err := isMask(path, entry, anyOwner)
			if err != nil {
				return nil, err
			}
			if chosen[name] = path; masks {
				chosen[name] = ""
			}
		}
	}
	var paths []string
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		if chosen[name] != "" {
			paths = append(paths, chosen[name])
		}
	}
	if len(paths) > maxFiles {
		return nil, &Error{File: l.dirs[0], Reason: strconv.Itoa(len(paths)) + " drop-ins are more than " + strconv.Itoa(maxFiles), Remedy: "put several volumes in one file"}
	}
	return paths, nil
}

// isDropIn reports whether the name of a file in the folder is that of a drop-in.
// Editors' backups and files that package managers put aside have other suffixes, or a
// leading dot.
func isDropIn(name string) bool {
	return !strings.HasPrefix(name, ".") && (strings.HasSuffix(name, ".yaml") || misnamed(name))
}

// misnamed reports whether only the spelling of its suffix keeps a file from being read:
// otherwise its volumes would be missing silently.
func misnamed(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yml", ".json":
		return true
	case ".yaml":
		return !strings.HasSuffix(name, ".yaml")
	}
	return false
}

// isMask reports whether a file is a link to /dev/null, which masks the vendor's
// file of the same name.
func isMask(path string, entry fs.FileInfo, anyOwner bool) (bool, error) {
	if entry.Mode()&fs.ModeSymlink == 0 {
		return false, nil
	}
	switch to, err := os.Readlink(path); {
	case err != nil:
		return false, openError(path, err)
	case to != os.DevNull:
		return false, nil
	}
	if uid := ownerOf(entry); uid != 0 && !anyOwner {
		return false, notRoots(path, path, uid)
	}
	return true, nil
}

// readDir lists a folder of drop-ins, or nothing if it does not exist. A process that can
// write to the folder could remove files, so only root may, as with the files.
func readDir(dir string, anyOwner bool) ([]fs.DirEntry, error) {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, &Error{File: dir, Reason: "cannot be read", Err: cause(err), Remedy: "run as root", code: fault.PermissionMissing}
	case err != nil:
		return nil, &Error{File: dir, Reason: "the folder of the drop-ins cannot be read", Err: cause(err), Remedy: "remove it if there are to be none", code: fault.FileUnsafe}
	case anyOwner:
		return entries, nil
	}
	if err := checkFolders(dir); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, openError(dir, err)
	}
	return entries, checkOwner(dir, dir, info)
}
