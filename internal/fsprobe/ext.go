// SPDX-License-Identifier: Apache-2.0

package fsprobe

// The superblock of ext2, ext3 and ext4: kernel, fs/ext4/ext4.h, struct ext4_super_block;
// all little endian. It is at byte 1024, whatever the block size.
const (
	extOffset = 1024
	extSize   = 1024

	extInodes         = 0x00
	extBlocksLo       = 0x04
	extFirstDataBlock = 0x14
	extLogBlockSize   = 0x18 // block size is 1024 << this
	extBlocksPerGroup = 0x20
	extInodesPerGroup = 0x28
	extMountTime      = 0x2c // of the last mount
	extMountCount     = 0x34
	extMaxMountCount  = 0x36
	extMagicOffset    = 0x38
	extState          = 0x3a
	extRevision       = 0x4c
	extInodeSize      = 0x58
	extGroupNumber    = 0x5a
	extCompat         = 0x5c
	extIncompat       = 0x60
	extROCompat       = 0x64
	extUUID           = 0x68
	extLabel          = 0x78
	extDescSize       = 0xfe
	extBlocksHi       = 0x150
	extChecksumType   = 0x175
	extBackupGroups   = 0x24c
	extSeed           = 0x270
	extChecksum       = 0x3fc

	extMagic = 0xef53

	extStateValid = 0x1
	extStateError = 0x2

	compatHasJournal   = 0x4
	compatSparseSuper2 = 0x200

	incompatFileType   = 0x2
	incompatRecover    = 0x4
	incompatJournalDev = 0x8
	incompatMetaBG     = 0x10
	incompat64Bit      = 0x80
	incompatCsumSeed   = 0x2000

	roCompatSparseSuper   = 0x1
	roCompatLargeFile     = 0x2
	roCompatBTreeDir      = 0x4
	roCompatBigAlloc      = 0x200 // groups of clusters, not blocks
	roCompatMetadataCsum  = 0x400
	roCompatOrphanPresent = 0x10000 // deleted files that were open

	extCRC32C = 1
)

// extSuper is the part of the superblock that matters here.
type extSuper struct {
	raw                        []byte
	blocks, inodes             uint64
	first                      uint64 // the block that group 0 starts in
	blockSize                  uint64
	perGroup, inodesPerGroup   uint64
	compat, incompat, roCompat uint32
}

func parseExt(b []byte) extSuper {
	s := extSuper{
		raw:            b,
		blocks:         uint64(le.Uint32(b[extBlocksLo:])),
		inodes:         uint64(le.Uint32(b[extInodes:])),
		first:          uint64(le.Uint32(b[extFirstDataBlock:])),
		perGroup:       uint64(le.Uint32(b[extBlocksPerGroup:])),
		inodesPerGroup: uint64(le.Uint32(b[extInodesPerGroup:])),
		compat:         le.Uint32(b[extCompat:]),
		incompat:       le.Uint32(b[extIncompat:]),
		roCompat:       le.Uint32(b[extROCompat:]),
	}
	if log := le.Uint32(b[extLogBlockSize:]); log <= 6 {
		s.blockSize = 1024 << log
	}
	if s.incompat&incompat64Bit != 0 {
		s.blocks |= uint64(le.Uint32(b[extBlocksHi:])) << 32
	}
	return s
}

func readExt(src *source) (*Superblock, error) {
	sb, s, err := readExtSuper(src)
	if err != nil {
		return nil, err
	}
	if sb.HasChecksum {
		sb.Proof, err = "checksums of superblock and group descriptor", s.checkDescriptor(src, sb.Type)
	} else {
		sb.Proof, err = s.confirm(src, sb.Type)
	}
	if err != nil {
		return nil, err
	}
	sb.Verified = true
	return sb, nil
}

// readExtSuper reads only the superblock: its magic number, its checksum if it has one,
// and its geometry.
func readExtSuper(src *source) (*Superblock, extSuper, error) {
	none := extSuper{}
	b, ok, err := src.at(extOffset, extSize)
	if err != nil {
		return nil, none, err
	}
	if !ok || le.Uint16(b[extMagicOffset:]) != extMagic {
		return nil, none, ErrNone
	}
	s := parseExt(b)
	fstype := s.fstype()
	if s.incompat&incompatJournalDev != 0 {
		return nil, none, ErrNone // an external journal, not a filesystem
	}
	sb := &Superblock{
		Type:        fstype,
		UUID:        formatUUID(b[extUUID:][:16]),
		Label:       cString(b[extLabel:][:16]),
		HasChecksum: s.roCompat&roCompatMetadataCsum != 0,
		BlockSize:   int(s.blockSize),
		Sector:      int(s.blockSize),
		Size:        int64(s.blocks * s.blockSize),
		NeedsCheck:  s.needsCheck(),
		Unclean:     s.incompat&incompatRecover != 0 || s.roCompat&roCompatOrphanPresent != 0,
		Mounted:     le.Uint32(s.raw[extMountTime:]) != 0 || le.Uint16(s.raw[extMountCount:]) != 0,
	}
	if sb.HasChecksum {
		if b[extChecksumType] != extCRC32C {
			return nil, none, badf(fstype, "unknown checksum type %d", b[extChecksumType])
		}
		// The kernel's crc32c leaves out the final inversion.
		want, got := ^crc32c(0, b[:extChecksum]), le.Uint32(b[extChecksum:])
		if want != got {
			return nil, none, badf(fstype, "superblock checksum is %#08x, must be %#08x", got, want)
		}
	}
	if err := s.plausible(fstype, src.size); err != nil {
		return nil, none, err
	}
	return sb, s, nil
}

// fstype distinguishes the three as libblkid does: by features that the older one
// cannot have.
func (s extSuper) fstype() string {
	const ext3Incompat = incompatFileType | incompatRecover | incompatMetaBG
	const ext3ROCompat = roCompatSparseSuper | roCompatLargeFile | roCompatBTreeDir
	switch {
	case s.incompat&^ext3Incompat != 0 || s.roCompat&^ext3ROCompat != 0:
		return Ext4
	case s.compat&compatHasJournal != 0:
		return Ext3
	}
	return Ext2
}

// needsCheck ignores the time of the last check, because boards without a battery boot in
// 1970.
func (s extSuper) needsCheck() bool {
	state := le.Uint16(s.raw[extState:])
	count, most := le.Uint16(s.raw[extMountCount:]), int16(le.Uint16(s.raw[extMaxMountCount:]))
	journal := s.compat&compatHasJournal != 0
	return state&extStateError != 0 ||
		(!journal && state&extStateValid == 0) ||
		(most > 0 && count >= uint16(most))
}

// plausible checks the geometry.
func (s extSuper) plausible(fstype string, size int64) error {
	switch {
	case s.blockSize == 0:
		return badf(fstype, "block size is out of range")
	case le.Uint32(s.raw[extRevision:]) > 1:
		return badf(fstype, "unknown revision %d", le.Uint32(s.raw[extRevision:]))
	case s.first > 1 || s.first == 1 && s.blockSize != 1024:
		return badf(fstype, "first data block is %d", s.first)
	case s.perGroup == 0 || s.perGroup%8 != 0 ||
		s.perGroup > 8*s.blockSize && s.roCompat&roCompatBigAlloc == 0:
		return badf(fstype, "%d blocks in a group", s.perGroup)
	case s.inodesPerGroup == 0 || s.inodesPerGroup > 8*s.blockSize:
		return badf(fstype, "%d inodes in a group", s.inodesPerGroup)
	case s.blocks <= s.first || s.blocks > uint64(size)/s.blockSize:
		return badf(fstype, "%d blocks of %d bytes on a device of %d bytes", s.blocks, s.blockSize, size)
	case s.inodes != s.groups()*s.inodesPerGroup:
		return badf(fstype, "%d inodes in %d groups of %d", s.inodes, s.groups(), s.inodesPerGroup)
	}
	return nil
}

func (s extSuper) groups() uint64 {
	return (s.blocks - s.first + s.perGroup - 1) / s.perGroup
}
