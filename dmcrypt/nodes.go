// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/devnum"
)

// nodes maintains /dev/mapper/NAME. If there is udev, its rules make and remove the link;
// otherwise nodes does. devtmpfs alone provides only /dev/dm-N.
type nodes struct {
	dev, run, proc string
	rules          []string // where udev's rules are
	wait           time.Duration
	// isDevice reports whether a path leads to the block device n.
	isDevice func(path string, n Number) bool
}

func newNodes(o Options) nodes {
	return nodes{
		dev: o.Dev, run: o.Run, proc: o.Proc, wait: o.NodeWait, isDevice: isDevice,
		rules: []string{"/etc/udev/rules.d", filepath.Join(o.Run, "udev/rules.d"), "/usr/lib/udev/rules.d", "/lib/udev/rules.d", "/usr/local/lib/udev/rules.d"},
	}
}

func isDevice(path string, n Number) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && devnum.Of(uint64(st.Rdev)) == n
}

func (d nodes) path(name string) string { return filepath.Join(d.dev, unix.DM_DIR, name) }

// dmPath returns the path of devtmpfs' node.
func (d nodes) dmPath(n Number) string {
	return filepath.Join(d.dev, "dm-"+strconv.FormatUint(uint64(n.Minor), 10))
}

// udev reports whether there is a udev that makes nodes for mappings: it runs, and it has
// device-mapper's rules (10-dm.rules, 55-dm.rules on Debian), which come with dmsetup and
// are not on every board.
func (d nodes) udev() bool {
	if _, err := os.Stat(filepath.Join(d.run, "udev/control")); err != nil {
		return false
	}
	for _, dir := range d.rules {
		if found, err := filepath.Glob(filepath.Join(dir, "[0-9]*-dm.rules")); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}

// appear returns when a public mapping's node exists. If udev does not make it in time
// (because it is busy or broken), appear does, as libdevmapper does.
func (d nodes) appear(ctx context.Context, name string, n Number) error {
	path := d.path(name)
	if d.udev() {
		waited, cancel := context.WithTimeout(ctx, d.wait)
		defer cancel()
		if waitFor(waited, filepath.Dir(path), func() bool { return d.isDevice(path, n) }) == nil {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return &Error{Kind: ErrNode, Detail: path + " was not made by udev", Err: err}
		}
	}
	return d.make(name, n)
}

// devicePath returns where a mapping, public or not, can be opened.
func (d nodes) devicePath(name string, n Number) (string, error) {
	for _, path := range []string{d.dmPath(n), d.path(name)} {
		if d.isDevice(path, n) {
			return path, nil
		}
	}
	if err := d.make(name, n); err != nil {
		return "", err
	}
	return d.path(name), nil
}

// make makes the link ../dm-N or, without devtmpfs, a node. It replaces an existing one,
// atomically, only if that is a leftover.
func (d nodes) make(name string, n Number) error {
	path := d.path(name)
	// Try again if something appeared or disappeared between looking and making.
	var err error
	for range 3 {
		var there fs.FileInfo
		switch there, err = os.Lstat(path); {
		case errors.Is(err, fs.ErrNotExist):
			err = d.put(path, n)
		case err != nil:
		case d.isDevice(path, n):
			return nil
		case !d.leftover(path, there, n):
			return &Error{Kind: ErrNode, Detail: path + " is there and is something else", Err: unix.EEXIST}
		default:
			err = d.replace(path, n)
		}
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return &Error{Kind: ErrNode, Err: err}
	}
	if !d.isDevice(path, n) {
		return &Error{Kind: ErrNode, Detail: path + " does not lead to device " + n.String(), Err: unix.ENXIO}
	}
	return nil
}

func (d nodes) put(path string, n Number) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if dm := d.dmPath(n); d.isDevice(dm, n) {
		return os.Symlink(filepath.Join("..", filepath.Base(dm)), path)
	}
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(n.Dev())); err != nil {
		return &fs.PathError{Op: "mknod", Path: path, Err: err}
	}
	return nil
}

func (d nodes) replace(path string, n Number) error {
	tmp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%d", filepath.Base(path), os.Getpid()))
	if err := d.put(tmp, n); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// leftover reports whether a file in place of a mapping's node is from an earlier mapping
// of that name: a dangling link, a link to another dm device (names are unique in the
// kernel, and this one is n's), or a node with device-mapper's major number. Anything
// else was put there on purpose.
func (d nodes) leftover(path string, there fs.FileInfo, n Number) bool {
	switch there.Mode().Type() {
	case fs.ModeSymlink:
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return true
		}
		to, err := os.Readlink(path)
		if err != nil {
			return false
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		return filepath.Dir(to) == filepath.Clean(d.dev) && strings.HasPrefix(filepath.Base(to), "dm-")
	case fs.ModeDevice:
		var st unix.Stat_t
		return unix.Lstat(path, &st) == nil && devnum.Of(uint64(st.Rdev)).Major == n.Major
	}
	return false
}

// disappear removes the node of a removed or renamed mapping. udev removes its own;
// whichever comes second finds nothing. A failure is harmless: a dangling link is
// replaced when it is in the way.
func (d nodes) disappear(name string, n Number, renamed bool) {
	path := d.path(name)
	if to, err := os.Readlink(path); err == nil {
		// If the device exists again, it is a new one, and the link may belong to it.
		if to == filepath.Join("..", filepath.Base(d.dmPath(n))) && (renamed || !d.isDevice(d.dmPath(n), n)) {
			_ = os.Remove(path)
		}
		return
	}
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && devnum.Of(uint64(st.Rdev)) == n {
		_ = os.Remove(path)
	}
}
