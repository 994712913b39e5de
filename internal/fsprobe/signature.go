// SPDX-License-Identifier: Apache-2.0

package fsprobe

import (
	"errors"
	"io"
)

// mark is a magic number and its place, in bytes from the start of the device or, if
// negative, from its end.
type mark struct {
	name  string
	off   int64
	magic string
}

// The numbers are those of the formats' own headers (kernel
// include/uapi/linux/magic.h, cryptsetup, lvm2, mdadm, OpenZFS, UEFI).

// wrappers are checked before filesystems: the remains of a filesystem may follow a LUKS
// header.
var wrappers = [...]mark{
	{"luks1", 0, "LUKS\xba\xbe\x00\x01"},
	{"luks2", 0, "LUKS\xba\xbe\x00\x02"},
	{"luks", 0, "LUKS\xba\xbe"},
	{"luks2 (second copy of the header)", 0x4000, "SKUL\xba\xbe"},
	{"bitlocker", 3, "-FVE-FS-"},
	{"dm-verity", 0, "verity\x00\x00"},
	{"dm-integrity", 0, "integrt\x00"},
}

// others are checked if there is no filesystem.
var others = [...]mark{
	{"lvm2", 512, "LABELONE"},
	{"lvm2", 0, "LABELONE"},
	{"lvm2", 1024, "LABELONE"},
	{"lvm2", 1536, "LABELONE"},
	{"md", 4096, "\xfc\x4e\x2b\xa9"},
	{"md", 0, "\xfc\x4e\x2b\xa9"},
	{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"swap", 4096 - 10, "SWAPSPACE2"},
	{"swap", 8192 - 10, "SWAPSPACE2"},
	{"swap", 16384 - 10, "SWAPSPACE2"},
	{"swap", 65536 - 10, "SWAPSPACE2"},
	{SquashFS, 0, "hsqs"},
	{EROFS, 1024, "\xe2\xe1\xf5\xe0"},
	{"cramfs", 0, "\x45\x3d\xcd\x28"},
	{"ubi", 0, "UBI#"},
	{"ubifs", 0, "\x31\x18\x10\x06"},
	{"jffs2", 0, "\x85\x19"},
	{"iso9660", 0x8001, "CD001"},
	{"zfs", 128 << 10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
	{"zfs", 128 << 10, "\x00\x00\x00\x00\x00\xba\xb1\x0c"},
	{"nilfs2", 1024 + 6, "\x34\x34"},
	{"reiserfs", 64<<10 + 52, "ReIsEr"},
	{"exfat", 3, "EXFAT   "},
	{"ntfs", 3, "NTFS    "},
	{"flattened image tree", 0, "\xd0\x0d\xfe\xed"},
	{"legacy u-boot image", 0, "\x27\x05\x19\x56"},
	{"android boot image", 0, "ANDROID!"},
	{"gzip", 0, "\x1f\x8b\x08"},
	{"xz", 0, "\xfd7zXZ\x00"},
	{"zstd", 0, "\x28\xb5\x2f\xfd"},
	{"xfs", 0, "XFSB"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"btrfs", btrfsOffset + btrfsMagicAt, "_BHRfS_M"},
	{"ext2, ext3 or ext4", extOffset + extMagicOffset, "\x53\xef"},
	{"gpt", 512, "EFI PART"},
	{"gpt", 4096, "EFI PART"},
	{"gpt (second copy)", -512, "EFI PART"},
	{"gpt (second copy)", -4096, "EFI PART"},
	{"mbr or boot sector", 510, "\x55\xaa"},
}

// Signature names what a device seems to hold, for messages only: an empty result,
// when nothing is recognised, does not prove that the device is empty. Errors are
// those of reading.
func Signature(r io.ReaderAt, size int64) (string, error) {
	s := newSource(r, size)
	if name, err := s.firstMark(wrappers[:]); err != nil || name != "" {
		return name, err
	}
	sb, err := Read(r, size)
	switch {
	case err == nil:
		return sb.Type, nil
	case errors.Is(err, ErrNone), errors.As(err, new(*ChecksumError)):
	default:
		return "", err
	}
	return s.firstMark(others[:])
}

func (s *source) firstMark(marks []mark) (string, error) {
	for _, m := range marks {
		off := m.off
		if off < 0 {
			off += s.size
		}
		b, ok, err := s.at(off, len(m.magic))
		if err != nil {
			return "", err
		}
		if ok && string(b) == m.magic {
			return m.name, nil
		}
	}
	return "", nil
}
