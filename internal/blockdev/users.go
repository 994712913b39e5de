// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"imxcrypt/internal/devnum"
	"imxcrypt/internal/mount"
	"imxcrypt/internal/plainfile"

	"golang.org/x/sys/unix"
)

// Holder is a device that is stacked on another one.
type Holder struct {
	Device string // the kernel's name, "dm-0"
	Name   string // the mapping's name, or Device if it is not a mapping
	UUID   string // the mapping's UUID
}

// Mounted is a mount of a device.
type Mounted struct {
	Device string // the kernel's name of the device or partition
	Target string
	Type   string
}

// Users are the users of a device, including those of its partitions if it is a
// whole disk.
type Users struct {
	Mounts  []Mounted
	Holders []Holder
	Swap    []string // the kernel's names of the devices used as swap
}

// None reports whether no user was found. It is not proof: a process that merely has
// the device open, or a mount in another namespace, is invisible.
func (u Users) None() bool { return len(u.Mounts)+len(u.Holders)+len(u.Swap) == 0 }

// String returns one line for a message; it is empty if there are no users.
func (u Users) String() string {
	var parts []string
	for _, m := range u.Mounts {
		parts = append(parts, fmt.Sprintf("%s is mounted on %s", m.Device, m.Target))
	}
	for _, h := range u.Holders {
		if h.Name != h.Device {
			parts = append(parts, "mapped as "+h.Name)
		} else {
			parts = append(parts, "held by "+h.Device)
		}
	}
	for _, s := range u.Swap {
		parts = append(parts, s+" is swap")
	}
	return strings.Join(parts, ", ")
}

// Users finds the users of the device with that number, and of its partitions.
func (s System) Users(n Number) (Users, error) {
	name, err := s.byNumber(n)
	if err != nil {
		return Users{}, fmt.Errorf("users of device %s: %w", n, err)
	}
	mine := map[Number]string{n: name}
	names := append([]string{name}, s.partitions(name)...)
	for _, p := range names[1:] {
		if node, err := s.node(p); err == nil {
			mine[node.number] = p
		}
	}
	var u Users
	for _, p := range names {
		for _, h := range s.links(p, "holders") {
			uuid, _ := plainfile.Attribute(s.block(h, "dm/uuid"))
			u.Holders = append(u.Holders, Holder{Device: h, Name: s.displayName(h), UUID: uuid})
		}
	}
	for _, loop := range s.loopsOver(func(file unix.Stat_t) bool {
		_, ok := mine[devnum.Of(file.Rdev)]
		return ok && file.Mode&unix.S_IFMT == unix.S_IFBLK
	}) {
		u.Holders = append(u.Holders, Holder{Device: loop, Name: loop})
	}
	entries, err1 := mount.ListAt(s.proc())
	for _, e := range entries {
		dev := Number{Major: e.Major, Minor: e.Minor}
		if _, ok := mine[dev]; !ok && dev.Major == 0 {
			// btrfs and similar filesystems mount under an anonymous number; their source
			// is the node.
			dev = s.numberOfPath(e.Source)
		}
		if p, ok := mine[dev]; ok {
			u.Mounts = append(u.Mounts, Mounted{Device: p, Target: e.Target, Type: e.Type})
		}
	}
	swaps, err2 := s.swaps()
	for _, dev := range swaps {
		if p, ok := mine[dev]; ok {
			u.Swap = append(u.Swap, p)
		}
	}
	slices.Sort(u.Swap)
	if err := errors.Join(err1, err2); err != nil {
		return u, fmt.Errorf("users of %s: %w", name, err)
	}
	return u, nil
}

// numberOfPath returns the number of the block device at path, zero for anything else.
func (s System) numberOfPath(path string) Number {
	if !strings.HasPrefix(path, "/") {
		return Number{}
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Number{}
	}
	return devnum.Of(st.Rdev)
}

// swaps lists the devices of /proc/swaps, which a kernel without swap lacks.
func (s System) swaps() ([]Number, error) {
	f, err := plainfile.Open(s.proc("swaps"), unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var out []Number
	sc := bufio.NewScanner(f)
	sc.Scan() // the column heads
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 2 || fields[1] != "partition" {
			continue
		}
		if n := s.swapNumber(fields[0]); n != (Number{}) {
			out = append(out, n)
		}
	}
	return out, sc.Err()
}

// swapNumber returns a swap device's number, from its node or, if that is gone or
// renamed, from sysfs by its kernel name.
func (s System) swapNumber(path string) Number {
	if n := s.numberOfPath(path); n != (Number{}) {
		return n
	}
	if node, err := s.node(filepath.Base(path)); err == nil {
		return node.number
	}
	return Number{}
}
