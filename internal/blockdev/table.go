// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"imxcrypt/internal/blank"
)

// tableEntry is a partition as its table describes it.
type tableEntry struct {
	number int    // as in sysfs: 1 is the first
	uuid   string // PARTUUID, lower case
	name   string // PARTLABEL; empty in an MBR
}

// GPT: UEFI specification 2.10, 5.3; the sizes are in bytes. Whatever the logical block
// size, the header is in block 1 and a copy in the last block.
const (
	gptMinHeader  = 92
	gptMaxEntries = 1024
	gptMinEntry   = 128
	gptMaxEntry   = 4096
	gptNameOffset = 56
	gptNameUnits  = 36 // UTF-16 code units
)

var errNoTable = errors.New("no partition table")

// readTable reads the partition table of a disk: a GPT, from its copy if the first
// one is damaged, or an MBR's signature. Of an MBR only the disk's identity matters:
// partition numbers come from sysfs.
func readTable(r io.ReaderAt, size int64, block int) (gpt []tableEntry, mbrID uint32, err error) {
	first := make([]byte, 512)
	if err := readFull(r, first, 0, size); err != nil {
		return nil, 0, err
	}
	if first[510] != 0x55 || first[511] != 0xaa {
		return nil, 0, errNoTable
	}
	if !protective(first) {
		return nil, binary.LittleEndian.Uint32(first[440:]), nil
	}
	last := size/int64(block) - 1
	gpt, err1 := readGPT(r, size, block, 1)
	if err1 == nil {
		return gpt, 0, nil
	}
	gpt, err2 := readGPT(r, size, block, last)
	if err2 == nil {
		return gpt, 0, nil
	}
	return nil, 0, fmt.Errorf("first GPT: %w, second GPT: %w", err1, err2)
}

// protective recognises the protective MBR of a GPT: one partition of type EE.
func protective(mbr []byte) bool {
	for i := range 4 {
		if mbr[446+16*i+4] == 0xee {
			return true
		}
	}
	return false
}

func readGPT(r io.ReaderAt, size int64, block int, lba int64) ([]tableEntry, error) {
	if lba < 1 || block < 512 || block > 1<<16 {
		return nil, errNoTable
	}
	head := make([]byte, block)
	if err := readFull(r, head, lba*int64(block), size); err != nil {
		return nil, err
	}
	if string(head[:8]) != "EFI PART" {
		return nil, errors.New("no signature")
	}
	le := binary.LittleEndian
	n := le.Uint32(head[12:])
	if n < gptMinHeader || int64(n) > int64(block) {
		return nil, fmt.Errorf("header of %d bytes", n)
	}
	sum := le.Uint32(head[16:])
	h := append([]byte(nil), head[:n]...)
	copy(h[16:20], []byte{0, 0, 0, 0})
	if crc32.ChecksumIEEE(h) != sum {
		return nil, errors.New("header checksum is wrong")
	}
	if got := le.Uint64(head[24:]); got != uint64(lba) {
		return nil, fmt.Errorf("header in block %d says it is in block %d", lba, got)
	}
	start, count, each := le.Uint64(head[72:]), le.Uint32(head[80:]), le.Uint32(head[84:])
	if count == 0 || count > gptMaxEntries || each < gptMinEntry || each > gptMaxEntry {
		return nil, fmt.Errorf("%d entries of %d bytes", count, each)
	}
	if start < 2 || start > uint64(size)/uint64(block) {
		return nil, fmt.Errorf("entries start in block %d", start)
	}
	table := make([]byte, int(count)*int(each))
	if err := readFull(r, table, int64(start)*int64(block), size); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(head[88:]) {
		return nil, errors.New("checksum of the entries is wrong")
	}
	var out []tableEntry
	for i := range int(count) {
		e := table[i*int(each):][:each]
		if blank.Zero(e[:16]) {
			continue // unused: the type is nil
		}
		out = append(out, tableEntry{number: i + 1, uuid: guid(e[16:32]), name: gptName(e[gptNameOffset:])})
	}
	return out, nil
}

// guid prints a GUID in the mixed byte order of UEFI.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

func gptName(b []byte) string {
	var units []uint16
	for i := range gptNameUnits {
		u := binary.LittleEndian.Uint16(b[2*i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// mbrPartUUID returns the PARTUUID that the kernel and libblkid give to a partition of an
// MBR disk.
func mbrPartUUID(disk uint32, partition int) string {
	return fmt.Sprintf("%08x-%02x", disk, partition)
}

// readFull reads len(p) bytes, which must be within size.
func readFull(r io.ReaderAt, p []byte, off, size int64) error {
	if off < 0 || off > size || int64(len(p)) > size-off {
		return io.ErrUnexpectedEOF
	}
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
