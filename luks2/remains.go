// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"encoding/binary"
	"io"
	"unicode/utf8"

	"imxcrypt/internal/blank"
)

// maxForeignBytes is how many bytes that are not a header's an unusable first copy may
// have and still count as ours. A torn write leaves none and flipped bits a few; the
// superblock of a filesystem, of swap or of a RAID leaves at least thirty.
const maxForeignBytes = 16

// overwritten reports whether something else is where the first copy, which is not
// usable, should be. A filesystem made over a container leaves the second copy good for a
// while, and must not be destroyed by "repairing" the first.
func overwritten(r io.ReaderAt, s *scanned) (bool, error) {
	if s.primary.State == CopyUnreadable {
		return false, nil // there is nothing left to lose
	}
	d := &devReader{r: r, size: s.best.bin.size}
	buf, err := d.fetch(0, d.size)
	if err != nil {
		return false, err
	}
	want := encodeCopy(s.best.bin, nil, false)
	foreign := 0
	for off := 0; off < len(buf); off += sectorSize {
		sector := buf[off : off+sectorSize]
		if blank.Erased(sector) {
			continue // an empty device, or erased flash
		}
		for i, c := range sector {
			if !ours(off+i, c, want) {
				foreign++
			}
		}
	}
	return foreign > maxForeignBytes, nil
}

// ours reports whether a first copy can have the byte c at i; want is a first copy of the
// same volume.
func ours(i int, c byte, want []byte) bool {
	switch {
	case i >= binarySize: // text, perhaps of another generation
		return c == 0 || (' ' <= c && c <= '~')
	case offSeqID <= i && i < offAlgorithm, // number and label may change
		offSalt <= i && i < offUUID,
		offSubsystem <= i && i < offOffset,
		offChecksum <= i && i < offChecksum+lenChecksum:
		return true
	}
	return c == want[i]
}

// Unfinished reports whether the first bytes of a device are what an interrupted
// [Header.Format] leaves on an empty one, and nothing else: no first copy, and some
// sectors of the second. size is the device's in bytes. area is how many bytes from the
// start have been checked (the two copies), so that the caller knows where to continue;
// only the caller can say that the device holds nothing else.
func Unfinished(r io.ReaderAt, size int64) (area int64, unfinished bool, err error) {
	d := &devReader{r: r, size: size}
	first, err := d.fetch(0, min(size, headerSizes[0]))
	if err != nil {
		return 0, false, err
	}
	if !blankSectors(first) {
		return 0, false, nil
	}
	for _, copySize := range headerSizes {
		if 2*copySize > size {
			return 0, false, nil
		}
		buf, err := d.fetch(copySize, copySize)
		if err != nil {
			return 0, false, err
		}
		if blankSectors(buf) {
			// A copy's padding is zeros, which count as remains on storage that reads as
			// 0xFF.
			if first[0] != buf[0] || !blank.Erased(buf) {
				return 2 * copySize, true, nil
			}
			continue // may be the place of the first copy in the next size
		}
		return 2 * copySize, tornSecondary(buf), nil
	}
	return 0, false, nil
}

// tornSecondary reports whether each sector is either blank or what a second copy has
// there.
func tornSecondary(buf []byte) bool {
	head := buf[:headerUsed]
	if !blank.Erased(head) && (string(head[:6]) != magicSecondary ||
		binary.BigEndian.Uint16(head[offVersion:]) != version ||
		binary.BigEndian.Uint64(head[offSize:]) != uint64(len(buf)) ||
		binary.BigEndian.Uint64(head[offOffset:]) != uint64(len(buf))) {
		return false
	}
	if !blankSectors(buf[headerUsed:binarySize]) {
		return false
	}
	for off := binarySize; off < len(buf); off += sectorSize {
		sector := buf[off : off+sectorSize]
		if blank.Erased(sector) {
			continue
		}
		if off == binarySize && sector[0] != '{' {
			return false
		}
		if !isText(bytes.TrimRight(sector, "\x00")) {
			return false
		}
	}
	return true
}

// isText reports whether b has no control characters, and no bytes that never occur in
// UTF-8. A sector boundary may cut a character.
func isText(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c == 0x7f || c == 0xc0 || c == 0xc1 || c > 0xf4 {
			return false
		}
	}
	// At most three bytes at either end belong to a character that was cut.
	for cut := 0; cut < utf8.UTFMax && cut < len(b); cut++ {
		for end := 0; end < utf8.UTFMax && end < len(b)-cut; end++ {
			if utf8.Valid(b[cut : len(b)-end]) {
				return true
			}
		}
	}
	return len(b) == 0
}

// blankSectors reports whether each sector reads like erased storage.
func blankSectors(buf []byte) bool {
	for len(buf) > 0 {
		n := min(sectorSize, len(buf))
		if !blank.Erased(buf[:n]) {
			return false
		}
		buf = buf[n:]
	}
	return true
}
