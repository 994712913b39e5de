// SPDX-License-Identifier: Apache-2.0

// Package initramfs makes small initial filesystems for virtual machines from unpacked
// Debian packages: the archive itself, the selected kernel modules and the shared
// libraries that a program needs.
package initramfs

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
)

// Writer writes a cpio archive in the "newc" format, as documented in the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst. It adds parent
// directories when they are first needed. Archives may be concatenated; in the kernel a
// later file replaces an earlier one.
type Writer struct {
	w    io.Writer
	ino  uint32
	dirs map[string]bool
	err  error
}

// NewWriter returns a Writer that writes to w. The caller closes both.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, dirs: map[string]bool{"": true, ".": true}}
}

// Kinds of inodes, as in <linux/stat.h>.
const (
	typeDir     = 0o040000
	typeRegular = 0o100000
	typeSymlink = 0o120000
)

// Dir adds a directory and its parents, mode 0755.
func (w *Writer) Dir(name string) error {
	name = clean(name)
	if w.dirs[name] {
		return w.err
	}
	if err := w.Dir(path.Dir(name)); err != nil {
		return err
	}
	w.dirs[name] = true
	return w.entry(name, typeDir|0o755, nil)
}

// File adds a regular file owned by root.
func (w *Writer) File(name string, perm fs.FileMode, data []byte) error {
	name = clean(name)
	if err := w.Dir(path.Dir(name)); err != nil {
		return err
	}
	return w.entry(name, typeRegular|uint32(perm.Perm()), data)
}

// Symlink adds a symbolic link. Nothing may be added below the link's name.
func (w *Writer) Symlink(name, target string) error {
	name = clean(name)
	if err := w.Dir(path.Dir(name)); err != nil {
		return err
	}
	return w.entry(name, typeSymlink|0o777, []byte(target))
}

// Close ends the archive. It is padded to 512 bytes so that another may follow.
func (w *Writer) Close() error {
	return w.entry("TRAILER!!!", 0, nil)
}

func (w *Writer) entry(name string, mode uint32, data []byte) error {
	if w.err != nil {
		return w.err
	}
	if uint64(len(data)) > 1<<32-1 {
		return fmt.Errorf("%s: too large for a cpio archive", name)
	}
	w.ino++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		w.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	w.write([]byte(header), pad4(len(header)), data, pad4(len(data)))
	return w.err
}

func (w *Writer) write(parts ...[]byte) {
	for _, p := range parts {
		if w.err == nil {
			_, w.err = w.w.Write(p)
		}
	}
}

func pad4(n int) []byte { return make([]byte, -n&3) }

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// Tree is the contents of an archive, by path in the guest.
type Tree map[string]Entry

// Entry is a file, or a symbolic link if Link is set.
type Entry struct {
	Data []byte
	Perm fs.FileMode
	Link string
}

// WriteTo writes the tree as one archive, ordered by name, so that equal trees make
// equal archives.
func (t Tree) WriteTo(out io.Writer) (int64, error) {
	counter := &countingWriter{w: out}
	w := NewWriter(counter)
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		var err error
		if e := t[name]; e.Link != "" {
			err = w.Symlink(name, e.Link)
		} else {
			err = w.File(name, e.Perm, e.Data)
		}
		if err != nil {
			return counter.n, err
		}
	}
	err := w.Close()
	return counter.n, err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
