// SPDX-License-Identifier: Apache-2.0

package fsprobe

import (
	"bytes"
)

// The superblock of XFS: kernel, fs/xfs/libxfs/xfs_format.h, struct xfs_dsb; big endian
// except for the checksum. There is one in the first sector of each allocation group.
const (
	xfsSize      = 264
	xfsBlockSize = 4
	xfsBlocks    = 8
	xfsUUID      = 32
	xfsAGBlocks  = 84
	xfsAGCount   = 88
	xfsVersion   = 100
	xfsSector    = 102
	xfsInodeSize = 104
	xfsLabel     = 108
	xfsBlockLog  = 120
	xfsSectorLog = 121
	xfsBusy      = 126 // mkfs has not finished
	xfsIncompat  = 216
	xfsCRC       = 224

	xfsVersionMask = 0x000f
	xfsNeedsRepair = 1 << 4
)

func readXFS(src *source) (*Superblock, error) {
	b, ok, err := src.at(0, xfsSize)
	if err != nil {
		return nil, err
	}
	if !ok || string(b[:4]) != "XFSB" {
		return nil, ErrNone
	}
	version := be.Uint16(b[xfsVersion:]) & xfsVersionMask
	sector, block := uint32(be.Uint16(b[xfsSector:])), be.Uint32(b[xfsBlockSize:])
	if !power2(sector, 512, 32768) || !power2(block, 512, 65536) ||
		1<<(b[xfsBlockLog]&31) != block || 1<<(b[xfsSectorLog]&31) != sector {
		return nil, badf(XFS, "sectors of %d bytes in blocks of %d", sector, block)
	}
	blocks := be.Uint64(b[xfsBlocks:])
	ag, groups := uint64(be.Uint32(b[xfsAGBlocks:])), uint64(be.Uint32(b[xfsAGCount:]))
	sb := &Superblock{
		Type:        XFS,
		UUID:        formatUUID(b[xfsUUID:][:16]),
		Label:       cString(b[xfsLabel:][:12]),
		HasChecksum: version == 5,
		BlockSize:   int(block),
		Sector:      int(sector),
		Size:        int64(blocks * uint64(block)),
	}
	switch {
	case version != 4 && version != 5:
		return nil, badf(XFS, "unknown version %d", version)
	case version == 5:
		if err := checkXFS(src, sector); err != nil {
			return nil, err
		}
		sb.Verified, sb.Proof = true, "superblock checksum"
		sb.NeedsCheck = be.Uint32(b[xfsIncompat:])&xfsNeedsRepair != 0
	}
	switch {
	case b[xfsBusy] != 0:
		return nil, badf(XFS, "mkfs did not finish")
	case blocks == 0 || blocks > uint64(src.size)/uint64(block):
		return nil, badf(XFS, "%d blocks of %d bytes on a device of %d bytes", blocks, block, src.size)
	case ag == 0 || groups == 0 || (blocks+ag-1)/ag != groups:
		return nil, badf(XFS, "%d blocks in %d groups of %d", blocks, groups, ag)
	}
	if sb.Verified {
		return sb, nil
	}
	return confirmXFS(src, b, sb, ag*uint64(block), groups)
}

// checkXFS verifies the checksum, which covers the whole sector with its own
// field taken as zero.
func checkXFS(src *source, sector uint32) error {
	b, ok, err := src.at(0, int(sector))
	if err != nil {
		return err
	}
	if !ok {
		return badf(XFS, "device is smaller than a sector")
	}
	sum := crc32c(0, b[:xfsCRC])
	sum = crc32c(sum, make([]byte, 4))
	sum = crc32c(sum, b[xfsCRC+4:])
	if got := le.Uint32(b[xfsCRC:]); got != sum {
		return badf(XFS, "superblock checksum is %#08x, must be %#08x", got, sum)
	}
	return nil
}

// confirmXFS compares a version 4 superblock, which has no checksum, with that
// of the second allocation group.
func confirmXFS(src *source, b []byte, sb *Superblock, ag, groups uint64) (*Superblock, error) {
	if groups < 2 {
		sb.Proof = "version 4 with a single allocation group: nothing to compare with"
		return sb, nil
	}
	c, ok, err := src.at(int64(ag), xfsSize)
	if err != nil {
		return nil, err
	}
	if !ok || !bytes.Equal(b[:xfsUUID+16], c[:xfsUUID+16]) || !bytes.Equal(b[xfsAGBlocks:xfsAGCount+4], c[xfsAGBlocks:xfsAGCount+4]) {
		return nil, badf(XFS, "superblock of the second allocation group differs")
	}
	sb.Verified, sb.Proof = true, "superblock of the second allocation group"
	return sb, nil
}
