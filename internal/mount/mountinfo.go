// SPDX-License-Identifier: Apache-2.0

// Package mount mounts and unmounts filesystems, and finds what is mounted where and
// what keeps a mount busy.
package mount

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"imxcrypt/internal/plainfile"
)

// Entry is one line of mountinfo (proc(5), /proc/[pid]/mountinfo), with the
// kernel's octal escapes undone.
type Entry struct {
	ID, Parent int
	// Major and Minor are st_dev of the files in it: the block device for
	// most filesystems, an anonymous 0:N for btrfs and all virtual ones.
	Major, Minor uint32
	// Root is the directory of the filesystem that is mounted, "/" unless
	// it is a bind mount or a subvolume.
	Root   string
	Target string
	// Options are the mount's own flags, SuperOptions those of the
	// filesystem, which all its mounts share.
	Options, SuperOptions []string
	Type                  string
	Source                string
	// Shared is the peer group that the mount belongs to, Master the one that it follows;
	// 0 means none (Documentation/filesystems/sharedsubtree.rst).
	Shared, Master int
}

// ReadOnly reports whether this mount or its filesystem is read-only.
func (e Entry) ReadOnly() bool {
	return hasWord(e.Options, "ro") || hasWord(e.SuperOptions, "ro")
}

func hasWord(words []string, want string) bool {
	for _, w := range words {
		if w == want {
			return true
		}
	}
	return false
}

// ListError means that a mountinfo cannot be read or understood.
type ListError struct {
	Path string
	Line int // 0 when the file as a whole could not be read
	Err  error
}

func (e *ListError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("list of mounts %s, line %d: %v", e.Path, e.Line, e.Err)
	}
	return fmt.Sprintf("list of mounts %s: %v", e.Path, e.Err)
}

func (e *ListError) Unwrap() error { return e.Err }

// List returns what is mounted in the namespace of this process, in the kernel's order:
// of two mounts on one target, the later one covers the earlier.
func (System) List() ([]Entry, error) { return ListAt("/proc") }

// ListAt is List with another root for /proc. A line that is not understood is an error,
// which comes with the entries of the other lines.
func ListAt(proc string) ([]Entry, error) { return listFile(filepath.Join(proc, "self/mountinfo")) }

func listFile(path string) ([]Entry, error) {
	f, err := plainfile.Open(path, os.O_RDONLY)
	if err != nil {
		return nil, &ListError{Path: path, Err: err}
	}
	defer func() { _ = f.Close() }()
	entries, line, err := parse(f)
	if err != nil {
		return entries, &ListError{Path: path, Line: line, Err: err}
	}
	return entries, nil
}

// maxLine bounds a line: the kernel writes paths of up to 4096 bytes, or four times that
// when escaped, and overlayfs options with a few more paths.
const maxLine = 1 << 20

// parse returns, with the error, the number of the first line that is not understood.
func parse(r io.Reader) (entries []Entry, badLine int, err error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	line := 0
	for sc.Scan() {
		line++
		if sc.Text() == "" {
			continue
		}
		e, lineErr := parseLine(sc.Text())
		switch {
		case lineErr == nil:
			entries = append(entries, e)
		case err == nil:
			badLine, err = line, lineErr
		}
	}
	if scanErr := sc.Err(); scanErr != nil && err == nil {
		badLine, err = line+1, scanErr
	}
	return entries, badLine, err
}

func parseLine(text string) (Entry, error) {
	f := strings.Split(text, " ")
	// Any number of optional fields may be between the sixth field and the lone hyphen.
	hyphen := -1
	for i := 6; i < len(f); i++ {
		if f[i] == "-" {
			hyphen = i
			break
		}
	}
	if hyphen < 0 {
		return Entry{}, fmt.Errorf("no separator among %d fields", len(f))
	}
	tail := f[hyphen+1:]
	if len(tail) < 3 {
		return Entry{}, fmt.Errorf("%d fields behind the separator, 3 needed", len(tail))
	}
	var e Entry
	var err error
	if e.ID, err = strconv.Atoi(f[0]); err != nil {
		return Entry{}, fmt.Errorf("mount number %q", f[0])
	}
	if e.Parent, err = strconv.Atoi(f[1]); err != nil {
		return Entry{}, fmt.Errorf("parent number %q", f[1])
	}
	major, minor, ok := strings.Cut(f[2], ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return Entry{}, fmt.Errorf("device number %q", f[2])
	}
	e.Major, e.Minor = uint32(ma), uint32(mi)
	e.Root = unescape(f[3])
	e.Target = unescape(f[4])
	e.Options = splitOptions(f[5])
	for _, field := range f[6:hyphen] {
		tag, group, _ := strings.Cut(field, ":")
		switch n, _ := strconv.Atoi(group); tag {
		case "shared":
			e.Shared = n
		case "master":
			e.Master = n
		}
	}
	e.Type = unescape(tail[0])
	e.Source = unescape(tail[1])
	e.SuperOptions = splitOptions(tail[2])
	return e, nil
}

func splitOptions(s string) []string {
	if s == "" {
		return nil
	}
	words := strings.Split(s, ",")
	for i := range words {
		words[i] = unescape(words[i])
	}
	return words
}

// unescape undoes the kernel's mangling of blanks, newlines, backslashes and
// a few more as a backslash with three octal digits.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
