// SPDX-License-Identifier: Apache-2.0

package fsprobe

import (
	"bytes"
	"hash/crc32"
	"unicode/utf16"
)

// The superblock of F2FS: kernel, include/linux/f2fs_fs.h, struct f2fs_super_block;
// little endian. One copy is in block 0, one in block 1, each 1024 bytes into its block.
const (
	f2fsOffset     = 1024
	f2fsSize       = 3072
	f2fsMagic      = 0xf2f52010
	f2fsLogSector  = 8
	f2fsLogBlock   = 16
	f2fsLogSegment = 20
	f2fsSumOffset  = 32
	f2fsBlocks     = 36
	f2fsSegments   = 48
	f2fsUUID       = 108
	f2fsLabel      = 124
	f2fsLabelUnits = 512 // UTF-16 code units
	f2fsFeature    = 2180
	f2fsCRC        = 3068

	f2fsHasSum = 0x800
)

func readF2FS(src *source) (*Superblock, error) {
	b, ok, err := src.at(f2fsOffset, f2fsSize)
	if err != nil {
		return nil, err
	}
	if !ok || le.Uint32(b) != f2fsMagic {
		return nil, ErrNone
	}
	log := le.Uint32(b[f2fsLogBlock:])
	if log < 12 || log > 16 || le.Uint32(b[f2fsLogSector:]) > log || le.Uint32(b[f2fsLogSegment:]) != 9 {
		return nil, badf(F2FS, "blocks of 2^%d bytes, segments of 2^%d blocks", log, le.Uint32(b[f2fsLogSegment:]))
	}
	block, blocks := uint64(1)<<log, le.Uint64(b[f2fsBlocks:])
	sb := &Superblock{
		Type:        F2FS,
		UUID:        formatUUID(b[f2fsUUID:][:16]),
		Label:       utf16String(b[f2fsLabel:], f2fsLabelUnits),
		HasChecksum: le.Uint32(b[f2fsFeature:])&f2fsHasSum != 0,
		BlockSize:   int(block),
		Sector:      int(block),
		Size:        int64(blocks * block),
	}
	if sb.HasChecksum {
		if off := le.Uint32(b[f2fsSumOffset:]); off != f2fsCRC {
			return nil, badf(F2FS, "checksum at offset %d", off)
		}
		// crc32 without the inversions, seeded with the magic number.
		want := ^crc32.Update(^uint32(f2fsMagic), crc32.IEEETable, b[:f2fsCRC])
		if got := le.Uint32(b[f2fsCRC:]); got != want {
			return nil, badf(F2FS, "superblock checksum is %#08x, must be %#08x", got, want)
		}
		sb.Proof = "checksums of superblock and checkpoint"
	}
	if blocks == 0 || blocks > uint64(src.size)/block || uint64(le.Uint32(b[f2fsSegments:])) > blocks>>9 {
		return nil, badf(F2FS, "%d blocks of %d bytes on a device of %d bytes", blocks, block, src.size)
	}
	if !sb.HasChecksum {
		c, ok, err := src.at(int64(block)+f2fsOffset, f2fsSize)
		if err != nil {
			return nil, err
		}
		// A power cut during an update can leave the copies with different
		// labels or extension lists; geometry and UUID never change.
		if !ok || !bytes.Equal(b[:f2fsLabel], c[:f2fsLabel]) {
			return nil, badf(F2FS, "second superblock differs")
		}
		sb.Proof = "second superblock and checksum of the checkpoint"
	}
	if sb.NeedsCheck, err = checkpointF2FS(src, b, int(block)); err != nil {
		return nil, err
	}
	sb.Verified = true
	return sb, nil
}

// The checkpoint: same header, struct f2fs_checkpoint. Two packs are one segment apart
// and are written in turn; each begins with a block that has its checksum.
const (
	f2fsCheckpoint      = 76 // in the superblock: its block number
	f2fsSegmentBlocks   = 512
	cpVersion           = 0
	cpFlags             = 132
	cpSumOffset         = 164
	cpSumEarly          = 192 // the first offset where the checksum may be
	cpFlagNeedsFsck     = 0x10
	f2fsCheckpointTries = 2
)

// checkpointF2FS verifies that one of the two checkpoints is sound. The superblock begins
// 1024 bytes into its block, so it would not show a wrong IV (see the ext4 group
// descriptor). The newer checkpoint says whether the filesystem asks for its checker.
func checkpointF2FS(src *source, super []byte, block int) (needsCheck bool, err error) {
	var newest uint64
	found := false
	for i := range int64(f2fsCheckpointTries) {
		off := (int64(le.Uint32(super[f2fsCheckpoint:])) + i*f2fsSegmentBlocks) * int64(block)
		b, ok, err := src.at(off, block)
		if err != nil {
			return false, err
		}
		if !ok || !soundCheckpoint(b) {
			continue
		}
		if v := le.Uint64(b[cpVersion:]); !found || v > newest {
			newest, found = v, true
			needsCheck = le.Uint32(b[cpFlags:])&cpFlagNeedsFsck != 0
		}
	}
	if !found {
		return false, badf(F2FS, "neither checkpoint has the right checksum")
	}
	return needsCheck, nil
}

// soundCheckpoint verifies a checkpoint's checksum, which covers what is before it and,
// unless it is at the very end, what is after it.
func soundCheckpoint(b []byte) bool {
	at := int64(le.Uint32(b[cpSumOffset:]))
	if at < cpSumEarly || at > int64(len(b)-4) {
		return false
	}
	sum := crc32.Update(^uint32(f2fsMagic), crc32.IEEETable, b[:at])
	sum = crc32.Update(sum, crc32.IEEETable, b[at+4:])
	return le.Uint32(b[at:]) == ^sum
}

// utf16String returns the little-endian UTF-16 text before the first NUL.
func utf16String(b []byte, units int) string {
	var out []uint16
	for i := range units {
		u := le.Uint16(b[2*i:])
		if u == 0 {
			break
		}
		out = append(out, u)
	}
	return string(utf16.Decode(out))
}
