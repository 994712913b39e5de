// SPDX-License-Identifier: Apache-2.0

// Package mount mounts and unmounts filesystems, and tells what is mounted
// where and by whom a mount is kept busy.
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
}

// ReadOnly tells whether this mount refuses writes, be it by its own flag or
// because its filesystem is read-only.
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

// ListError is a mountinfo that cannot be read or understood.
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

// List is what is mounted in the namespace of this process, in the kernel's
// order: of two mounts on one target the later one covers the earlier.
func List() ([]Entry, error) { return ListAt("/proc") }

// ListAt is List with another root for /proc.
func ListAt(proc string) ([]Entry, error) {
	path := filepath.Join(proc, "self/mountinfo")
	f, err := plainfile.Open(path, os.O_RDONLY)
	if err != nil {
		return nil, &ListError{Path: path, Err: err}
	}
	defer func() { _ = f.Close() }()
	entries, line, err := parse(f)
	if err != nil {
		return nil, &ListError{Path: path, Line: line, Err: err}
	}
	return entries, nil
}

// maxLine bounds a line: the kernel writes the paths, of up to 4096 bytes and
// four times that when escaped, and overlayfs options with a few paths more.
const maxLine = 1 << 20

func parse(r io.Reader) (entries []Entry, line int, err error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	for sc.Scan() {
		line++
		if sc.Text() == "" {
			continue
		}
		e, err := parseLine(sc.Text())
		if err != nil {
			return nil, line, err
		}
		entries = append(entries, e)
	}
	if err := sc.Err(); err != nil {
		return nil, line + 1, err
	}
	return entries, 0, nil
}

func parseLine(text string) (Entry, error) {
	f := strings.Split(text, " ")
	// Any number of optional fields stands between the sixth field and the
	// lone hyphen.
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
