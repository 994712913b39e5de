// SPDX-License-Identifier: Apache-2.0

package fsprobe

import (
	"bytes"
	"crypto/sha256"
)

// The superblock of btrfs: kernel, include/uapi/linux/btrfs_tree.h, struct
// btrfs_super_block; little endian.
const (
	btrfsOffset    = 64 << 10
	btrfsSize      = 4096
	btrfsSumSize   = 32
	btrfsUUID      = 0x20
	btrfsBytenr    = 0x30
	btrfsMagicAt   = 0x40
	btrfsTotal     = 0x70
	btrfsSector    = 0x90
	btrfsNode      = 0x94
	btrfsSumType   = 0xc4
	btrfsLabel     = 0x12b
	btrfsLabelSize = 256
)

// The checksum algorithms of btrfs. BLAKE2b is not verified here.
const (
	btrfsCRC32C  = 0
	btrfsXXHash  = 1
	btrfsSHA256  = 2
	btrfsBLAKE2b = 3
)

func readBtrfs(src *source) (*Superblock, error) {
	b, ok, err := src.at(btrfsOffset, btrfsSize)
	if err != nil {
		return nil, err
	}
	if !ok || string(b[btrfsMagicAt:][:8]) != "_BHRfS_M" {
		return nil, ErrNone
	}
	sb := &Superblock{
		Type:        Btrfs,
		UUID:        formatUUID(b[btrfsUUID:][:16]),
		Label:       cString(b[btrfsLabel:][:btrfsLabelSize]),
		HasChecksum: true,
		BlockSize:   int(le.Uint32(b[btrfsSector:])),
		Sector:      int(le.Uint32(b[btrfsSector:])),
		Size:        int64(le.Uint64(b[btrfsTotal:])),
	}
	body := b[btrfsSumSize:]
	var want []byte
	switch t := le.Uint16(b[btrfsSumType:]); t {
	case btrfsCRC32C:
		want = le.AppendUint32(nil, crc32c(0, body))
	case btrfsXXHash:
		want = le.AppendUint64(nil, xxhash64(body))
	case btrfsSHA256:
		sum := sha256.Sum256(body)
		want = sum[:]
	case btrfsBLAKE2b:
		sb.Proof = "none: BLAKE2b checksums are not verified"
	default:
		return nil, badf(Btrfs, "unknown checksum type %d", t)
	}
	if want != nil {
		if got := b[:len(want)]; !bytes.Equal(got, want) {
			return nil, badf(Btrfs, "superblock checksum is %x, must be %x", got, want)
		}
		sb.Verified, sb.Proof = true, "superblock checksum"
	}
	sector, node := le.Uint32(b[btrfsSector:]), le.Uint32(b[btrfsNode:])
	switch {
	case le.Uint64(b[btrfsBytenr:]) != btrfsOffset:
		return nil, badf(Btrfs, "superblock says it lies at byte %d", le.Uint64(b[btrfsBytenr:]))
	case !power2(sector, 4096, 65536) || !power2(node, sector, 65536):
		return nil, badf(Btrfs, "sectors of %d bytes, nodes of %d", sector, node)
	case sb.Size <= 0:
		return nil, badf(Btrfs, "no size")
	}
	return sb, nil
}
