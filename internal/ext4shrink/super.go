// SPDX-License-Identifier: Apache-2.0

package ext4shrink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The superblock: kernel, fs/ext4/ext4.h, struct ext4_super_block, little endian.
const (
	superOffset = 1024
	superSize   = 1024
	extMagic    = 0xef53

	incompat64Bit   = 0x80
	incompatRecover = 0x4
	roOrphanPresent = 0x10000

	// Features that were tried. Others may be just as safe, but have not been tested.
	compatTried   = 0x4 | 0x8 | 0x10 | 0x20 | 0x1000                     // has_journal ext_attr resize_inode dir_index orphan_file
	incompatTried = 0x2 | 0x40 | incompat64Bit | 0x200 | 0x2000 | 0x8000 // filetype extent 64bit flex_bg csum_seed inline_data
	roTried       = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x400         // sparse_super large_file huge_file gdt_csum dir_nlink extra_isize metadata_csum
)

var le = binary.LittleEndian

// Super is what matters here of a superblock. A block has Block bytes.
type Super struct {
	UUID                       [16]byte
	Block, Blocks, Free        int64
	inodes                     int64 // in use
	inodeSize                  int64
	compat, incompat, roCompat uint32
}

// ReadSuper reads the superblock of the filesystem that dev begins with.
func ReadSuper(dev io.ReaderAt) (s Super, err error) {
	b := make([]byte, superSize)
	if _, err := dev.ReadAt(b, superOffset); err != nil {
		return s, err
	}
	return parseSuper(b)
}

func parseSuper(b []byte) (s Super, err error) {
	number := func(at int) int64 { return int64(le.Uint32(b[at:])) }
	if le.Uint16(b[0x38:]) != extMagic || number(0x18) > 2 || number(0x4c) != 1 {
		return s, errors.New("no ext4 superblock with blocks of 1 to 4 KiB")
	}
	s = Super{
		UUID: [16]byte(b[0x68:]), Block: 1024 << number(0x18), Blocks: number(0x4), Free: number(0xc),
		inodes: number(0x0) - number(0x10), inodeSize: int64(le.Uint16(b[0x58:])),
		compat: le.Uint32(b[0x5c:]), incompat: le.Uint32(b[0x60:]), roCompat: le.Uint32(b[0x64:]),
	}
	if s.incompat&incompat64Bit != 0 {
		s.Blocks |= number(0x150) << 32
		s.Free |= number(0x158) << 32
	}
	if s.Blocks <= 0 || s.Blocks > 1<<40 || s.Free < 0 || s.Free > s.Blocks {
		return s, fmt.Errorf("a superblock with %d of %d blocks free", s.Free, s.Blocks)
	}
	return s, nil
}

// Size returns the filesystem's size in bytes.
func (s Super) Size() int64 { return s.Blocks * s.Block }

// Used returns how many bytes of the filesystem are in use.
func (s Super) Used() int64 { return (s.Blocks - s.Free) * s.Block }

// Checked returns the superblock as it is after a check: without the flags of a
// filesystem that is mounted, or was not cleanly unmounted.
func (s Super) Checked() Super {
	s.incompat &^= incompatRecover
	s.roCompat &^= roOrphanPresent
	return s
}

// Tried returns an error for a filesystem with features that shrinking was not tried
// with.
func (s Super) Tried() error {
	compat, incompat, ro := s.compat&^compatTried, s.incompat&^incompatTried, s.roCompat&^roTried
	if compat|incompat|ro == 0 {
		return nil
	}
	return fmt.Errorf("it has features that shrinking was not tried with (compat %#x, incompat %#x, ro_compat %#x)", compat, incompat, ro)
}

// Need returns roughly how many bytes the copy of the metadata and the log take if the
// filesystem is made to fit into size bytes: bitmaps and inodes in use, twice, to allow
// for those between them, the journal, directories, and what is behind the new end.
func (s Super) Need(size int64) int64 {
	const journal, least = 64 << 20, 4 << 20
	groups := s.Blocks/(8*s.Block) + 1
	return 2*s.inodes*s.inodeSize + 2*groups*s.Block + min(s.Size()/16, journal) + 3*max(s.Size()-size, 0) + least
}
