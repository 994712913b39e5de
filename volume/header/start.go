// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
)

// Start describes how a device with a filesystem at its beginning gets a header there.
// The bytes that the header replaces are kept at the end of the device, beside the future
// header, and one sector says that both are whole. Once that sector is there the device
// is the volume, however much of its header is written; without it, the device is the
// filesystem. The sector is in the device's last whole block:
//
//	  0  16  "IMXCRYPT-HEADER\0", or for the way back "IMXCRYPT-PLAIN\0\0"
//	 16   4  version 1, little-endian, as all numbers
//	 20   4  zeros
//	 24   8  size of the header area in bytes
//	 32   8  where the bytes that it replaces are kept
//	 40   8  where the header area is kept
//	 48  32  SHA-256 of those bytes
//	 80  32  SHA-256 of the header area
//	480  32  SHA-256 of bytes 0 to 479
type Start struct {
	// Area is the size of the header area. Saved and Staged are where the filesystem's
	// first bytes and the header area are kept, and Record is where the sector is. All
	// are in bytes.
	Area, Saved, Staged, Record int64

	// Back is set for the way back, at the end of a decryption. The header is at the
	// device's beginning, and the filesystem's first bytes replace it: once the sector is
	// there the device is the filesystem. The header is kept all the same, to distinguish
	// a sector that is not put back yet from one that was written by someone else since.
	Back bool

	saved, staged [sha256.Size]byte
}

const (
	startMagic = "IMXCRYPT-HEADER\x00"
	backMagic  = "IMXCRYPT-PLAIN\x00\x00"
)

// PlanBack returns the way back on a device of size bytes on which the filesystem's first
// bytes are kept at saved, and the area bytes before them are free.
func PlanBack(size, area, saved int64) Start {
	s := PlanStart(size, area)
	s.Saved, s.Staged, s.Back = saved, saved-area, true
	return s
}

// PlanStart places what is kept at the end of a device of size bytes.
func PlanStart(size, area int64) Start {
	record := size/BlockAlign*BlockAlign - BlockAlign
	return Start{Area: area, Saved: record - area, Staged: record - 2*area, Record: record}
}

// StartState is the state of a device's beginning compared with the record at its end.
type StartState int

const (
	// StartNone: there is no record, or it no longer applies.
	StartNone StartState = iota
	// StartBegun: each sector is the filesystem's or the header's, and what is being
	// written is not whole yet.
	StartBegun
	// StartMixed: a part of the header is there, but something else was written too.
	StartMixed
)

// Begin makes the device the volume or, with Back, the filesystem: it writes the sector,
// durably, if the device holds what the sector says and begins with the bytes that are
// kept.
func (s Start) Begin(dev Device) error {
	first, saved, staged, err := s.read(dev)
	if err != nil {
		return err
	}
	before := saved
	if s.Back {
		before = staged
	}
	if !bytes.Equal(first, before) {
		return fault.Newf(fault.IOFailed, "%s does not read back as it was written, or changed meanwhile", dev.Path())
	}
	s.saved, s.staged = sha256.Sum256(saved), sha256.Sum256(staged)
	return put(dev, s.block(), s.Record)
}

// Finish writes the header, or the filesystem's first bytes, from where they are kept to
// where they belong. Then it removes the sector, which has served its purpose: left
// there, it would be applied to whatever the device is used for later. Finish may be
// repeated.
func (s Start) Finish(dev Device) error {
	if err := dev.Flush(); err != nil { // the sector may be only in a cache
		return err
	}
	_, saved, staged, err := s.read(dev)
	if err != nil {
		return err
	}
	// What identifies a filesystem comes first, or with Back last: the first sector,
	// where XFS and FAT have their superblock, and then the one at 1024, where ext4 and
	// f2fs have theirs. So what has parts of the header in its middle is not taken for
	// that filesystem, even if the partition's size has changed and the record is no
	// longer found. (f2fs has a second superblock, and btrfs's is at 64 KiB, but LUKS2's
	// magic number in the first sector comes before both.) The header's second copy comes
	// last: if both copies are whole, so is the rest. The way back has the opposite order.
	const copySize, superblock = MetadataSize / 2, 2 * SectorBytes
	content, order := staged, []struct{ from, to int64 }{{0, SectorBytes}, {superblock, superblock + SectorBytes}, {SectorBytes, copySize}, {MetadataSize, s.Area}, {copySize, MetadataSize}}
	if s.Back {
		content, order = saved, []struct{ from, to int64 }{{copySize, MetadataSize}, {MetadataSize, s.Area}, {BlockAlign, copySize}, {superblock + SectorBytes, BlockAlign}, {SectorBytes, superblock + SectorBytes}, {0, SectorBytes}}
	}
	for _, part := range order {
		if err := put(dev, content[part.from:part.to], part.from); err != nil {
			return err
		}
	}
	return put(dev, make([]byte, BlockAlign), s.Record)
}

func put(dev Device, b []byte, at int64) error {
	if _, err := dev.WriteAt(b, at); err != nil {
		return err
	}
	return dev.Flush()
}

// FindStart compares a device's beginning with the record at its end. If the partition
// has been enlarged since, the record is found if one copy of the header, which
// tells the old end, is whole.
func FindStart(dev Device) (Start, StartState, error) {
	s, state, err := findStart(dev, dev.Size())
	if err != nil || state != StartNone {
		return s, state, err
	}
	lh, copies, err := luks2.Read(dev, dev.Size())
	if err != nil {
		return s, StartNone, nil
	}
	h, err := Understand(lh, copies, dev.Path())
	if err != nil || h.moved() == 0 {
		return s, StartNone, nil
	}
	return findStart(dev, min(h.moved()+lh.Area()+BlockAlign, dev.Size()))
}

// findStart is FindStart for a record at the end of the device's first size bytes.
func findStart(dev Device, size int64) (s Start, state StartState, err error) {
	end := PlanStart(size, 0)
	if end.Record < 0 {
		return s, StartNone, nil
	}
	sector := make([]byte, BlockAlign)
	if _, err := dev.ReadAt(sector, end.Record); err != nil {
		return s, StartNone, fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	s, ok := parseStart(sector, size)
	if !ok {
		return s, StartNone, nil
	}
	first, saved, staged, err := s.read(dev)
	if err != nil {
		return s, StartNone, err
	}
	if sha256.Sum256(saved) != s.saved || sha256.Sum256(staged) != s.staged {
		return s, StartNone, nil // the place has been used since
	}
	return s, s.compare(first, saved, staged), nil
}

func (s Start) compare(first, saved, staged []byte) StartState {
	whole := staged
	if s.Back {
		whole = saved
	}
	others, headers := 0, 0
	for at := 0; at < len(first); at += SectorBytes {
		is := first[at : at+SectorBytes]
		switch {
		case bytes.Equal(is, saved[at:at+SectorBytes]):
		case bytes.Equal(is, staged[at:at+SectorBytes]):
			headers++
		default:
			others++
		}
	}
	switch {
	case others > 0 && headers > 0:
		return StartMixed
	case others > 0 || bytes.Equal(first, whole):
		return StartNone
	}
	return StartBegun
}

// read reads the device's first bytes, those that are kept, and the header area.
func (s Start) read(dev Device) (first, saved, staged []byte, err error) {
	var parts [3][]byte
	for i, at := range []int64{0, s.Saved, s.Staged} {
		parts[i] = make([]byte, s.Area)
		if _, err := dev.ReadAt(parts[i], at); err != nil {
			return nil, nil, nil, fault.New(fault.IOFailed, "read "+dev.Path(), err)
		}
	}
	return parts[0], parts[1], parts[2], nil
}

func (s Start) block() []byte {
	b := make([]byte, BlockAlign)
	copy(b, startMagic)
	if s.Back {
		copy(b, backMagic)
	}
	binary.LittleEndian.PutUint32(b[16:], 1)
	for i, n := range []int64{s.Area, s.Saved, s.Staged} {
		binary.LittleEndian.PutUint64(b[24+8*i:], uint64(n))
	}
	copy(b[48:], s.saved[:])
	copy(b[80:], s.staged[:])
	sum := sha256.Sum256(b[:eraseSumOffset])
	copy(b[eraseSumOffset:SectorBytes], sum[:])
	return b
}

// parseStart parses the sector of a device of size bytes; ok is false for anything else.
func parseStart(b []byte, size int64) (s Start, ok bool) {
	sum := sha256.Sum256(b[:eraseSumOffset])
	back := bytes.HasPrefix(b, []byte(backMagic))
	if !back && !bytes.HasPrefix(b, []byte(startMagic)) || binary.LittleEndian.Uint32(b[16:]) != 1 || !bytes.Equal(sum[:], b[eraseSumOffset:SectorBytes]) {
		return s, false
	}
	number := func(at int) int64 { return int64(binary.LittleEndian.Uint64(b[at:])) }
	area := number(24)
	if area < RotationJournalOffset || area > MaxHeaderArea || area%BlockAlign != 0 {
		return s, false
	}
	s = PlanStart(size, area)
	if saved := number(32); back && saved <= s.Saved && saved%BlockAlign == 0 { // the device may have grown since
		s = PlanBack(size, area, saved)
	}
	copy(s.saved[:], b[48:])
	copy(s.staged[:], b[80:])
	return s, back == s.Back && number(32) == s.Saved && number(40) == s.Staged && s.Staged >= area
}

// interruptedStart returns an error if a device whose header, or one copy of it, could
// not be read was being written when that was interrupted; otherwise nil. err is why the
// header was not read.
func interruptedStart(dev Device, err error) error {
	s, state, readErr := FindStart(dev)
	switch {
	case readErr != nil:
	case state == StartBegun && s.Back:
		return fault.Newf(fault.DecryptionEnding, "decrypting %s was interrupted while the filesystem's first bytes were put back; all is in plain text, and nothing is lost", dev.Path())
	case state == StartMixed && err != nil && s.Back:
		return fault.New(fault.HeaderDamaged, fmt.Sprintf("decrypting %s was interrupted while the filesystem's first bytes were put back, and something else has written to its start since; all is in plain text, and the first %d bytes of the filesystem as they were are kept at byte %d", dev.Path(), s.Area, s.Saved), err)
	case state == StartBegun:
		return fault.Newf(fault.EncryptionStarted, "encrypting %s was interrupted while the header was written to it; nothing is encrypted yet, and nothing is lost", dev.Path())
	case state == StartMixed && err != nil:
		return fault.New(fault.HeaderDamaged, fmt.Sprintf("encrypting %s was interrupted while the header was written to it, and something else has written to its start since; nothing is encrypted, and the first %d bytes of the filesystem as they were are kept at byte %d", dev.Path(), s.Area, s.Saved), err)
	}
	return nil
}

// Window is a device that begins at byte Begin of another: through it, a header that is
// kept in the middle of a device reads as if it were at the start.
type Window struct {
	Device
	Begin int64
}

// ReadAt implements io.ReaderAt.
func (w Window) ReadAt(p []byte, off int64) (int, error) { return w.Device.ReadAt(p, w.Begin+off) }

// WriteAt implements io.WriterAt.
func (w Window) WriteAt(p []byte, off int64) (int, error) { return w.Device.WriteAt(p, w.Begin+off) }

// PlainView shows a device as h, the plaintext side, has it: the bytes that the header
// area replaces are elsewhere.
func (h *Header) PlainView(dev Device) io.ReaderAt {
	if h.Moved == 0 {
		return dev
	}
	return displaced{dev, h.LUKS.Area(), h.Moved}
}

type displaced struct {
	dev      io.ReaderAt
	area, at int64
}

// ReadAt implements io.ReaderAt.
func (d displaced) ReadAt(p []byte, off int64) (n int, err error) {
	if off < d.area {
		first := min(int64(len(p)), d.area-off)
		if n, err = d.dev.ReadAt(p[:first], d.at+off); err != nil || n == len(p) {
			return n, err
		}
	}
	m, err := d.dev.ReadAt(p[n:], off+int64(n))
	return n + m, err
}

// BeginOf returns where the content of dev begins on the underlying device, in bytes.
func BeginOf(dev Device) int64 {
	if w, ok := dev.(Window); ok {
		return w.Begin
	}
	return 0
}
