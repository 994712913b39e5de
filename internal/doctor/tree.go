// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxFile bounds what is read of one file: a kernel's options are some 300 KiB.
const maxFile = 4 << 20

// tree is a machine's files below a root folder.
type tree struct{ root string }

func (t tree) path(name string) string {
	if t.root == "" {
		return name
	}
	return filepath.Join(t.root, name)
}

// text returns a file's content without white space at its ends; it is empty if the file
// cannot be read.
func (t tree) text(name string) string {
	b, err := t.bytes(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.TrimRight(string(b), "\x00"))
}

func (t tree) bytes(name string) ([]byte, error) {
	f, err := os.Open(t.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

func (t tree) exists(name string) bool {
	_, err := os.Stat(t.path(name))
	return err == nil
}

// first returns the first of the names that exists, or an empty string.
func (t tree) first(names ...string) string {
	for _, n := range names {
		if t.exists(n) {
			return n
		}
	}
	return ""
}

// glob returns the names below the root that match.
func (t tree) glob(pattern string) []string {
	// The root is ours, so a bad pattern would be a bug in this package.
	found, err := filepath.Glob(t.path(pattern))
	if err != nil {
		return nil
	}
	for i, f := range found {
		found[i] = strings.TrimPrefix(f, t.root)
	}
	return found
}

// program returns the path of a program in the folders that imxcrypt runs programs from,
// or an empty string.
func (t tree) program(name string) string {
	return t.first("/usr/sbin/"+name, "/usr/bin/"+name, "/sbin/"+name, "/bin/"+name)
}
