// SPDX-License-Identifier: Apache-2.0

package fsprobe

import (
	"bytes"
)

// The group descriptor and the inode, from the same header. A descriptor
// begins with the blocks of the block bitmap, the inode bitmap and the inode
// table, 4 bytes each.
const (
	extDescMin    = 32
	extDescMax    = 1024
	extDescSum    = 0x1e // 2 bytes
	extInodeMin   = 128
	extInodeMode  = 0x0
	extInodeLinks = 0x1a
	extRootInode  = 2
	modeDirectory = 0x4000
	modeTypeMask  = 0xf000
)

// checkDescriptor verifies the checksum of the first group descriptor. The superblock's
// own is not enough: it begins 1024 bytes into a block, and with crypt sectors of 4096
// bytes in CBC a wrong IV corrupts only the first 16 bytes of each sector. The descriptor
// begins a block of its own.
func (s extSuper) checkDescriptor(src *source, fstype string) error {
	size := extDescMin
	if s.incompat&incompat64Bit != 0 {
		size = int(le.Uint16(s.raw[extDescSize:]))
	}
	if size < extDescMin || size > extDescMax || size&(size-1) != 0 {
		return badf(fstype, "group descriptors of %d bytes", size)
	}
	b, ok, err := src.at(int64((s.first+1)*s.blockSize), size)
	if err != nil {
		return err
	}
	if !ok {
		return badf(fstype, "no group descriptor")
	}
	// Each step continues from the last one's result; Go's crc32 inverts
	// before and after, the kernel's does neither.
	seed := crc32c(0, s.raw[extUUID:][:16])
	if s.incompat&incompatCsumSeed != 0 {
		seed = ^le.Uint32(s.raw[extSeed:])
	}
	sum := crc32c(seed, make([]byte, 4)) // group 0
	sum = crc32c(sum, b[:extDescSum])
	sum = crc32c(sum, make([]byte, 2))
	sum = crc32c(sum, b[extDescSum+2:])
	if want, got := uint16(^sum), le.Uint16(b[extDescSum:]); want != got {
		return badf(fstype, "group descriptor checksum is %#04x, must be %#04x", got, want)
	}
	return nil
}

// confirm compares a superblock without a checksum with its first backup, or,
// in a filesystem too small to have one, with the tables it points to.
func (s extSuper) confirm(src *source, fstype string) (proof string, err error) {
	group := uint64(1)
	if s.compat&compatSparseSuper2 != 0 {
		group = uint64(le.Uint32(s.raw[extBackupGroups:]))
	}
	if group == 0 || group >= s.groups() {
		return "group descriptor and root directory", s.confirmRoot(src, fstype)
	}
	off := int64((s.first + group*s.perGroup) * s.blockSize)
	b, ok, err := src.at(off, extSize)
	if err != nil {
		return "", err
	}
	if !ok || le.Uint16(b[extMagicOffset:]) != extMagic {
		return "", badf(fstype, "no backup superblock at byte %d", off)
	}
	c := parseExt(b)
	same := bytes.Equal(c.raw[extUUID:][:16], s.raw[extUUID:][:16]) &&
		c.blocks == s.blocks && c.blockSize == s.blockSize && c.first == s.first &&
		c.perGroup == s.perGroup && c.inodesPerGroup == s.inodesPerGroup &&
		uint64(le.Uint16(b[extGroupNumber:])) == group&0xffff &&
		(c.incompat^s.incompat)&^incompatRecover == 0
	if !same {
		return "", badf(fstype, "backup superblock at byte %d describes another filesystem", off)
	}
	return "backup superblock", nil
}

// confirmRoot follows the first group descriptor to the root directory.
func (s extSuper) confirmRoot(src *source, fstype string) error {
	b, ok, err := src.at(int64((s.first+1)*s.blockSize), extDescMin)
	if err != nil {
		return err
	}
	if !ok {
		return badf(fstype, "no group descriptor")
	}
	blockBitmap, inodeBitmap, table := uint64(le.Uint32(b[0:])), uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:]))
	for _, at := range []uint64{blockBitmap, inodeBitmap, table} {
		if at <= s.first || at >= s.blocks {
			return badf(fstype, "group descriptor points to block %d of %d", at, s.blocks)
		}
	}
	if blockBitmap == inodeBitmap || blockBitmap == table || inodeBitmap == table {
		return badf(fstype, "group descriptor points twice to one block")
	}
	inodeSize := uint64(extInodeMin)
	if le.Uint32(s.raw[extRevision:]) > 0 {
		inodeSize = uint64(le.Uint16(s.raw[extInodeSize:]))
	}
	if !power2(inodeSize, extInodeMin, s.blockSize) {
		return badf(fstype, "inodes of %d bytes", inodeSize)
	}
	i, ok, err := src.at(int64(table*s.blockSize+(extRootInode-1)*inodeSize), extInodeMin)
	if err != nil {
		return err
	}
	if !ok || le.Uint16(i[extInodeMode:])&modeTypeMask != modeDirectory || le.Uint16(i[extInodeLinks:]) < 2 {
		return badf(fstype, "root inode is not a directory")
	}
	return nil
}
