// SPDX-License-Identifier: Apache-2.0

// Package blockdev finds, opens, reads and writes block devices, and regular files
// used like them: detached headers and images.
//
// It works without udev and without other programs: it uses sysfs, partition tables
// and superblocks.
package blockdev

import (
	"path/filepath"

	"imxcrypt/internal/devnum"
)

// System says where the kernel's file trees are. Its zero value is the running system;
// tests use their own trees.
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

// Number is a block device's number. The zero Number means a regular
// file.
type Number = devnum.Number
