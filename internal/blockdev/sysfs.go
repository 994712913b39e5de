// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"imxcrypt/internal/plainfile"

	"golang.org/x/sys/unix"
)

// node is a block device as its uevent file in sysfs shows it. The files are
// described in the kernel's Documentation/ABI/{stable,testing}/sysfs-block and
// sysfs-block-dm.
type node struct {
	name   string // the kernel's: "mmcblk2p3", "dm-0"
	number Number
	// partition number; 0 for a whole disk.
	partition int
	// partName and partUUID are PARTNAME, which is old, and PARTUUID, which came with
	// Linux 6.9.
	partName, partUUID string
	hasPartName        bool
}

func (s System) block(name string, elem ...string) string {
	return s.sys(append([]string{"class/block", name}, elem...)...)
}

// nodes lists the block devices, sorted by name.
func (s System) nodes() ([]node, error) {
	entries, err := os.ReadDir(s.sys("class/block"))
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	all := make([]node, 0, len(entries))
	for _, e := range entries {
		n, err := s.node(e.Name())
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue // unplugged meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// hasSize reports whether a device has a size. An unused loop device and a drive without
// a medium have none.
func (s System) hasSize(name string) bool {
	size, err := plainfile.Attribute(s.block(name, "size"))
	return err == nil && size != "0"
}

// node reads one device's sysfs entry.
func (s System) node(name string) (node, error) {
	text, err := plainfile.Attribute(s.block(name, "uevent"))
	if err != nil {
		return node{}, fmt.Errorf("block device %s: %w", name, err)
	}
	n := node{name: name}
	for _, line := range strings.Split(text, "\n") {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		switch key {
		case "MAJOR":
			n.number.Major = small(value)
		case "MINOR":
			n.number.Minor = small(value)
		case "PARTN":
			n.partition = int(small(value))
		case "PARTNAME":
			n.partName, n.hasPartName = value, true
		case "PARTUUID":
			n.partUUID = value
		}
	}
	return n, nil
}

// small parses a number from sysfs; anything else is 0, which no device or partition
// of interest has.
func small(s string) uint32 {
	v, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(v)
}

// path returns the device's node, by its mapping's name if that exists, because people
// know mappings by name.
func (s System) path(name string) string {
	if isMapping(name) {
		if dm, err := plainfile.Attribute(s.block(name, "dm/name")); err == nil && dm != "" {
			p := s.dev("mapper", dm)
			if _, err := os.Stat(p); err == nil {
				return p
			}
		}
	}
	// The kernel writes a slash in a device name as '!'.
	return s.dev(strings.ReplaceAll(name, "!", "/"))
}

// isMapping reports whether a device is a mapping, by its name: the prefix is reserved
// for device-mapper.
func isMapping(name string) bool { return strings.HasPrefix(name, "dm-") }

// byNumber finds a device's sysfs name from its number.
func (s System) byNumber(n Number) (string, error) {
	link, err := os.Readlink(s.sys("dev/block", n.String()))
	if err != nil {
		return "", err
	}
	return filepath.Base(link), nil
}

// Node returns the path of a device's node.
func (s System) Node(n Number) (string, error) {
	name, err := s.byNumber(n)
	return s.path(name), err
}

// Name returns the name of a device for messages: its mapping's, or the kernel's, or the
// number if sysfs does not know it.
func (s System) Name(n Number) string {
	name, err := s.byNumber(n)
	if err != nil {
		return n.String()
	}
	return s.displayName(name)
}

// displayName names a device by its mapping, if it is one.
func (s System) displayName(name string) string {
	if dm, err := plainfile.Attribute(s.block(name, "dm/name")); err == nil && dm != "" {
		return dm
	}
	return name
}

// disk returns the whole disk that a partition belongs to: the folder above the
// partition's own, which the link points to.
func (s System) disk(partition string) string {
	link, err := os.Readlink(s.block(partition))
	if err != nil {
		return partition
	}
	return filepath.Base(filepath.Dir(link))
}

// diskOf is disk for any device: a whole disk is its own disk.
func (s System) diskOf(name string) string {
	if _, err := os.Stat(s.block(name, "partition")); err != nil {
		return name
	}
	return s.disk(name)
}

// partitions lists the partitions of a whole disk, by sysfs name.
func (s System) partitions(disk string) []string {
	return s.children(disk, func(name string) bool {
		if !strings.HasPrefix(name, disk) {
			return false // one of the disk's two dozen attributes
		}
		_, err := os.Stat(s.block(disk, name, "partition"))
		return err == nil
	})
}

// children lists the entries of a device's folder for which keep holds.
func (s System) children(name string, keep func(string) bool) []string {
	entries, err := os.ReadDir(s.block(name) + "/")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if keep(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out
}

// links lists the names in one of a device's folders of links: "holders" are
// the devices stacked on it, "slaves" those it is stacked on.
func (s System) links(name, kind string) []string {
	entries, err := os.ReadDir(s.block(name, kind))
	if err != nil {
		return nil
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// maxStack bounds the walk down a stack of devices.
const maxStack = 8

// suspended reports whether a mapping, or one that it is stacked on, is suspended.
// Reading it would hang until it is resumed, for ever if the process that suspended it
// died.
func (s System) suspended(name string, depth int) bool {
	if !isMapping(name) && !strings.HasPrefix(name, "md") || depth > maxStack {
		return false // is stacked on nothing
	}
	if v, err := plainfile.Attribute(s.block(name, "dm/suspended")); err == nil && v == "1" {
		return true
	}
	for _, below := range s.links(name, "slaves") {
		if s.suspended(below, depth+1) {
			return true
		}
	}
	return false
}

// maxErase is the largest plausible erase size: with a larger one, drivers mean "no
// limit".
const maxErase = 1 << 30

// eraseSize returns the unit in bytes that the device erases in, 0 if unknown.
func (s System) eraseSize(n Number) int64 {
	name, err := s.byNumber(n)
	if err != nil {
		return 0
	}
	disk := s.diskOf(name)
	for _, attr := range []string{"device/preferred_erase_size", "queue/discard_granularity"} {
		text, err := plainfile.Attribute(s.block(disk, attr))
		if err != nil {
			continue
		}
		if v, err := strconv.ParseInt(text, 10, 64); err == nil && v > 0 && v <= maxErase {
			return v
		}
	}
	return 0
}

func (s System) sysfsReadOnly(n Number) bool {
	name, err := s.byNumber(n)
	if err != nil {
		return false
	}
	ro, err := plainfile.Attribute(s.block(name, "ro"))
	return err == nil && ro == "1"
}
