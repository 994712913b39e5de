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
)

// node is a block device as sysfs shows it. The files are described in the
// kernel's Documentation/ABI/{stable,testing}/sysfs-block and sysfs-block-dm.
type node struct {
	name   string // the kernel's: "mmcblk2p3", "dm-0"
	number Number
	// partition number; 0 for a whole disk.
	partition int
	// partName and partUUID as the uevent file tells them. PARTNAME is old;
	// PARTUUID came with Linux 6.9.
	partName, partUUID string
	hasPartName        bool
	dmName, dmUUID     string
}

// readSmall reads a sysfs attribute and takes the newline off.
func readSmall(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

func (s System) block(name string, elem ...string) string {
	return s.sys(append([]string{"class/block", name}, elem...)...)
}

// nodes lists the block devices that could hold something: those of some
// size. The names come sorted.
func (s System) nodes() ([]node, error) {
	entries, err := os.ReadDir(s.sys("class/block"))
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	var all []node
	for _, e := range entries {
		n, err := s.node(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // unplugged meanwhile
		}
		if err != nil {
			return nil, err
		}
		if size, err := readSmall(s.block(n.name, "size")); err != nil || size == "0" {
			continue // an unused loop or nbd device, a drive without medium
		}
		all = append(all, n)
	}
	return all, nil
}

// node reads what sysfs tells of one device.
func (s System) node(name string) (node, error) {
	text, err := os.ReadFile(s.block(name, "uevent"))
	if err != nil {
		return node{}, fmt.Errorf("block device %s: %w", name, err)
	}
	n := node{name: name}
	for _, line := range strings.Split(string(text), "\n") {
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
	if n.partition == 0 {
		if p, err := readSmall(s.block(name, "partition")); err == nil {
			n.partition = int(small(p))
		}
	}
	if dm, err := readSmall(s.block(name, "dm/name")); err == nil {
		n.dmName = dm
		n.dmUUID, _ = readSmall(s.block(name, "dm/uuid"))
	}
	return n, nil
}

// small is a number out of sysfs; what is none counts as 0, which no device
// or partition of interest has.
func small(s string) uint32 {
	v, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(v)
}

// path is the device's node: by its mapping's name where that exists, because
// that is what a person knows a mapping by.
func (s System) path(n node) string {
	if n.dmName != "" {
		p := s.dev("mapper", n.dmName)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	// The kernel writes a slash inside of a device name as '!'.
	return s.dev(strings.ReplaceAll(n.name, "!", "/"))
}

// byNumber finds a device's sysfs name from its number.
func (s System) byNumber(n Number) (string, error) {
	dir, err := filepath.EvalSymlinks(s.sys("dev/block", n.String()))
	if err != nil {
		return "", err
	}
	return filepath.Base(dir), nil
}

// Name is what messages call the device of a number: the name of its mapping,
// or the kernel's, or the bare number where sysfs does not know it.
func (s System) Name(n Number) string {
	name, err := s.byNumber(n)
	if err != nil {
		return n.String()
	}
	return s.displayName(name)
}

// displayName names a device by its mapping, if it is one.
func (s System) displayName(name string) string {
	if dm, err := readSmall(s.block(name, "dm/name")); err == nil && dm != "" {
		return dm
	}
	return name
}

// disk is the whole disk that a partition belongs to; a whole disk is its own.
func (s System) disk(name string) string {
	if _, err := os.Stat(s.block(name, "partition")); err != nil {
		return name
	}
	dir, err := filepath.EvalSymlinks(s.block(name))
	if err != nil {
		return name
	}
	return filepath.Base(filepath.Dir(dir))
}

// partitions are the partitions of a whole disk, by sysfs name.
func (s System) partitions(disk string) []string {
	return s.children(disk, func(name string) bool {
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

// suspended tells whether a mapping is suspended, itself or one that it is
// stacked on. Reading it would hang until somebody resumes it, for ever if
// that somebody died.
func (s System) suspended(name string, depth int) bool {
	if v, err := readSmall(s.block(name, "dm/suspended")); err == nil && v == "1" {
		return true
	}
	if depth >= maxStack {
		return false
	}
	below := s.links(s.disk(name), "slaves")
	for _, b := range below {
		if s.suspended(b, depth+1) {
			return true
		}
	}
	return false
}

// maxErase is the greatest erase size believed: beyond, a driver's "no limit"
// is meant.
const maxErase = 1 << 30

// eraseSize is the unit in bytes that the device erases in, 0 when unknown.
func (s System) eraseSize(n Number) int64 {
	name, err := s.byNumber(n)
	if err != nil {
		return 0
	}
	disk := s.disk(name)
	for _, attr := range []string{"device/preferred_erase_size", "queue/discard_granularity"} {
		text, err := readSmall(s.block(disk, attr))
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
	ro, err := readSmall(s.block(name, "ro"))
	return err == nil && ro == "1"
}
