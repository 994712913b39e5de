// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"slices"

	"imxcrypt/internal/devnum"
	"imxcrypt/internal/plainfile"

	"golang.org/x/sys/unix"
)

// Below lists the devices below a device, at any depth: the mappings and disks under a
// mapping, the disk of a partition, the device of the filesystem with a loop device's
// file. What cannot be determined is left out.
func (s System) Below(n Number) []Number {
	var found []Number
	s.below(n, &found, 0)
	return found
}

func (s System) below(n Number, found *[]Number, depth int) {
	name, err := s.byNumber(n)
	if err != nil || depth > maxStack {
		return
	}
	var next []Number
	for _, slave := range append(s.links(name, "slaves"), s.diskOf(name)) {
		if node, err := s.node(slave); err == nil && slave != name {
			next = append(next, node.number)
		}
	}
	if file, err := plainfile.Attribute(s.block(name, "loop/backing_file")); err == nil {
		var st unix.Stat_t
		if unix.Stat(file, &st) == nil {
			next = append(next, devnum.Of(st.Dev))
		}
	}
	for _, b := range next {
		if !slices.Contains(*found, b) {
			*found = append(*found, b)
			s.below(b, found, depth+1)
		}
	}
}
