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

// text is a file's content without white space at its ends; empty if it cannot
// be read.
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

// first is the first of the names that exists, or empty.
func (t tree) first(names ...string) string {
	for _, n := range names {
		if t.exists(n) {
			return n
		}
	}
	return ""
}

// glob returns names below the root.
func (t tree) glob(pattern string) []string {
	// The root is ours; a bad pattern would be a mistake of this package's.
	found, err := filepath.Glob(t.path(pattern))
	if err != nil {
		return nil
	}
	for i, f := range found {
		found[i] = strings.TrimPrefix(f, t.root)
	}
	return found
}

// program is the path of a program in the folders that imxcrypt runs programs
// from, or empty.
func (t tree) program(name string) string {
	return t.first("/usr/sbin/"+name, "/usr/bin/"+name, "/sbin/"+name, "/bin/"+name)
}
