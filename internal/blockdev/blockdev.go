// SPDX-License-Identifier: Apache-2.0

// Package blockdev finds, opens, reads and writes block devices, and regular
// files in their place: detached headers and images.
//
// It works without udev and without a program: what it knows comes from
// sysfs, from the partition tables and from the superblocks.
package blockdev

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// System tells where the kernel's own file trees are. Its zero value is the
// running system; tests point it at trees of their own.
type System struct {
	Sys  string // "" means /sys
	Proc string // "" means /proc
	Dev  string // "" means /dev
}

func (s System) sys(elem ...string) string  { return under(s.Sys, "/sys", elem) }
func (s System) proc(elem ...string) string { return under(s.Proc, "/proc", elem) }
func (s System) dev(elem ...string) string  { return under(s.Dev, "/dev", elem) }

func under(root, standard string, elem []string) string {
	if root == "" {
		root = standard
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

// Number is a block device's number. The zero Number stands for a regular
// file.
type Number struct{ Major, Minor uint32 }

// String is the number as device-mapper tables and sysfs write it: "8:1".
func (n Number) String() string { return fmt.Sprintf("%d:%d", n.Major, n.Minor) }

func numberOf(rdev uint64) Number {
	return Number{Major: unix.Major(rdev), Minor: unix.Minor(rdev)}
}
