// SPDX-License-Identifier: Apache-2.0

package fsprobe

import (
	"bytes"
	"fmt"
	"strings"
)

// The boot sector of FAT: Microsoft, FAT32 File System Specification 1.03, and
// kernel, include/uapi/linux/msdos_fs.h; little endian.
const (
	fatBootSize       = 512
	fatSectorSize     = 11
	fatPerCluster     = 13
	fatReserved       = 14
	fatCopies         = 16
	fatRootEntries    = 17
	fatSectors16      = 19
	fatMedia          = 21
	fatLength16       = 22
	fatSectors32      = 32
	fat32Length       = 36
	fat32Root         = 44
	fat32Backup       = 50
	fat32Extra        = 64 // drive, state, signature, serial, label, name
	fat16Extra        = 36
	fatExtraState     = 1
	fatExtraSignature = 2
	fatExtraSerial    = 3
	fatExtraLabel     = 7
	fatLabelSize      = 11
	fatSignature      = 0x29
	fatStateDirty     = 0x01
)

// fat is a parsed boot sector.
type fat struct {
	raw        []byte
	sector     uint32
	cluster    uint32 // bytes
	reserved   uint32 // sectors before the first table
	copies     uint32
	length     uint32 // sectors of one table
	sectors    uint32 // of the whole
	root       uint32 // entries of the root directory, 0 in FAT32
	media      byte
	is32       bool
	extra      []byte
	backup     uint32 // sector of the backup boot sector, FAT32 only
	rootStart  uint32 // first cluster of the root directory, FAT32 only
	dataSector uint64
}

// parseFAT recognises a boot sector by its geometry: FAT has no magic number
// that others do not use as well.
func parseFAT(b []byte) (fat, bool) {
	f := fat{
		raw:      b,
		sector:   uint32(le.Uint16(b[fatSectorSize:])),
		reserved: uint32(le.Uint16(b[fatReserved:])),
		copies:   uint32(b[fatCopies]),
		length:   uint32(le.Uint16(b[fatLength16:])),
		sectors:  uint32(le.Uint16(b[fatSectors16:])),
		root:     uint32(le.Uint16(b[fatRootEntries:])),
		media:    b[fatMedia],
	}
	f.is32 = f.length == 0
	if f.sectors == 0 {
		f.sectors = le.Uint32(b[fatSectors32:])
	}
	f.extra = b[fat16Extra:]
	if f.is32 {
		f.length = le.Uint32(b[fat32Length:])
		f.extra = b[fat32Extra:]
		f.backup = uint32(le.Uint16(b[fat32Backup:]))
		f.rootStart = le.Uint32(b[fat32Root:])
	}
	per := uint32(b[fatPerCluster])
	f.cluster = f.sector * per
	f.dataSector = uint64(f.reserved) + uint64(f.copies)*uint64(f.length) + (uint64(f.root)*32+uint64(max(f.sector, 1))-1)/uint64(max(f.sector, 1))
	ok := b[510] == 0x55 && b[511] == 0xaa &&
		(b[0] == 0xeb || b[0] == 0xe9) &&
		power2(f.sector, 512, 4096) && power2(per, 1, 128) &&
		f.reserved > 0 && (f.copies == 1 || f.copies == 2) &&
		(f.media == 0xf0 || f.media >= 0xf8) &&
		f.length > 0 && f.is32 == (f.root == 0) &&
		f.extra[fatExtraSignature] == fatSignature &&
		uint64(f.sectors) > f.dataSector
	return f, ok
}

func readVFAT(src *source) (*Superblock, error) {
	b, ok, err := src.at(0, fatBootSize)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNone
	}
	f, ok := parseFAT(b)
	if !ok {
		return nil, ErrNone
	}
	sb := &Superblock{
		Type:       VFAT,
		BlockSize:  int(f.cluster),
		Sector:     int(f.sector),
		Size:       int64(f.sectors) * int64(f.sector),
		NeedsCheck: f.extra[fatExtraState]&fatStateDirty != 0,
		Label:      fatLabel(f.extra[fatExtraLabel:][:fatLabelSize]),
		Verified:   true,
	}
	if serial := le.Uint32(f.extra[fatExtraSerial:]); serial != 0 {
		sb.UUID = fmt.Sprintf("%04X-%04X", serial>>16, serial&0xffff)
	}
	if sb.Size > src.size {
		return nil, badf(VFAT, "%d sectors of %d bytes on a device of %d bytes", f.sectors, f.sector, src.size)
	}
	if f.is32 && f.backup != 0 && f.backup < f.reserved {
		sb.Proof = "backup boot sector"
		err = f.confirmBackup(src)
	} else {
		sb.Proof = "allocation tables"
		err = f.confirmTables(src)
	}
	if err != nil {
		return nil, err
	}
	// The root directory's label has precedence over the boot sector's, as for mount and
	// blkid; Windows changes only the former.
	label, found, err := f.rootLabel(src)
	if err != nil {
		return nil, err
	}
	if found {
		sb.Label = label
	}
	return sb, nil
}

// confirmBackup compares the boot sector with its backup, except for the state, which is
// kept only in the first.
func (f fat) confirmBackup(src *source) error {
	c, ok, err := src.at(int64(f.backup)*int64(f.sector), fatBootSize)
	if err != nil {
		return err
	}
	// From the sector size up to the state, and the serial number. The label
	// is left out: fatlabel and Windows do not always change both.
	state, serial := fat32Extra+fatExtraState, fat32Extra+fatExtraSerial
	if !ok || !bytes.Equal(c[fatSectorSize:state], f.raw[fatSectorSize:state]) || !bytes.Equal(c[serial:serial+4], f.raw[serial:serial+4]) {
		return badf(VFAT, "backup boot sector differs")
	}
	return nil
}

// confirmTables compares the first sectors of the tables, whose first entry
// repeats the media byte.
func (f fat) confirmTables(src *source) error {
	for i := range f.copies {
		b, ok, err := src.at((int64(f.reserved)+int64(i)*int64(f.length))*int64(f.sector), 4)
		if err != nil {
			return err
		}
		if !ok || b[0] != f.media || b[1] != 0xff {
			return badf(VFAT, "allocation table %d does not begin with the media byte", i+1)
		}
	}
	return nil
}

const (
	fatEntrySize   = 32
	fatAttrOffset  = 11
	fatAttrVolume  = 0x08
	fatAttrLong    = 0x0f
	fatAttrMask    = 0x3f
	fatEntryFree   = 0xe5
	fatMaxRootRead = 4096
)

// rootLabel looks for the volume entry in the first page of the root
// directory, where every formatter puts it.
func (f fat) rootLabel(src *source) (label string, found bool, err error) {
	start := (uint64(f.reserved) + uint64(f.copies)*uint64(f.length)) * uint64(f.sector)
	n := uint64(f.root) * fatEntrySize
	if f.is32 {
		if f.rootStart < 2 {
			return "", false, nil
		}
		start = f.dataSector*uint64(f.sector) + uint64(f.rootStart-2)*uint64(f.cluster)
		n = uint64(f.cluster)
	}
	b, ok, err := src.at(int64(start), int(min(n, fatMaxRootRead)))
	if err != nil || !ok {
		return "", false, err
	}
	for ; len(b) >= fatEntrySize && b[0] != 0; b = b[fatEntrySize:] {
		attr := b[fatAttrOffset] & fatAttrMask
		if b[0] != fatEntryFree && attr != fatAttrLong && attr&fatAttrVolume != 0 {
			return fatLabel(b[:fatLabelSize]), true, nil
		}
	}
	return "", false, nil
}

// fatLabel trims the padding; the formatters' "NO NAME" is an empty label.
func fatLabel(b []byte) string {
	s := strings.TrimRight(cString(b), " ")
	if s == "NO NAME" {
		return ""
	}
	return s
}
