// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"imxcrypt/internal/fault"
)

// EraseRecordOffset is where the record of an erase is on a device that held its own
// header, in bytes. It is behind the check areas, so inside every possible header area.
// It is not in the place of a header copy: a new header could then be torn over half of
// it.
const EraseRecordOffset = MetadataSize + checkAreaCount*CheckAreaSize

// EraseRecordSuffix is appended to the path of a detached header to name the file that
// holds its record.
const EraseRecordSuffix = ".erased"

// EraseState says how far the erase went.
type EraseState uint32

const (
	EraseBegun EraseState = 1 // header or blob may still be there, in parts
	EraseDone  EraseState = 2 // nothing is left in the header area
)

// EraseRecord replaces a volume that erase destroyed. It permits provisioning to use a
// device that is full of ciphertext, and it identifies an interrupted erase. It is one
// sector, which is never torn, in a block of 4096 bytes, so that devices with such
// sectors need no read-modify-write:
//
//	  0  16  "IMXCRYPT-ERASED\0"
//	 16   4  version 1, little-endian, as all numbers
//	 20   4  state: 1 begun, 2 done
//	 24   8  size of the header area in bytes
//	 32   8  time, seconds since 1970
//	 40  40  uuid, zero-padded; empty if it could not be read any more
//	 80  48  label, zero-padded
//	128  32  SHA-256 of the first MiB of the data device; zeros if the header
//	         was on the device itself
//	480  32  SHA-256 of bytes 0 to 479
type EraseRecord struct {
	State       EraseState
	Area        int64
	When        time.Time
	UUID, Label string
	// Data ties the record of a detached header to the device: a file stays when a disk
	// is replaced.
	Data [sha256.Size]byte
}

const (
	eraseMagic       = "IMXCRYPT-ERASED\x00"
	eraseSumOffset   = 480
	eraseUUIDOffset  = 40
	eraseLabelOffset = 80
	eraseDataOffset  = 128
)

// String says what happened to which volume.
func (r EraseRecord) String() string {
	verb := "was erased"
	if r.State == EraseBegun {
		verb = "was being erased"
	}
	return fmt.Sprintf("volume %q (uuid %q) %s on %s", r.Label, r.UUID, verb, r.When.UTC().Format(time.DateOnly))
}

// Block returns the record as it is stored.
func (r EraseRecord) Block() []byte {
	b := make([]byte, BlockAlign)
	copy(b, eraseMagic)
	binary.LittleEndian.PutUint32(b[16:], 1)
	binary.LittleEndian.PutUint32(b[20:], uint32(r.State))
	binary.LittleEndian.PutUint64(b[24:], uint64(r.Area))
	binary.LittleEndian.PutUint64(b[32:], uint64(r.When.Unix()))
	copy(b[eraseUUIDOffset:eraseLabelOffset-1], r.UUID)
	copy(b[eraseLabelOffset:eraseDataOffset-1], r.Label)
	copy(b[eraseDataOffset:], r.Data[:])
	sum := sha256.Sum256(b[:eraseSumOffset])
	copy(b[eraseSumOffset:SectorBytes], sum[:])
	return b
}

// ParseEraseRecord parses a record; ok is false for anything else.
func ParseEraseRecord(b []byte) (r EraseRecord, ok bool) {
	if len(b) < SectorBytes || !bytes.HasPrefix(b, []byte(eraseMagic)) || binary.LittleEndian.Uint32(b[16:]) != 1 {
		return r, false
	}
	sum := sha256.Sum256(b[:eraseSumOffset])
	if !bytes.Equal(sum[:], b[eraseSumOffset:SectorBytes]) {
		return r, false
	}
	text := func(from, to int) string {
		before, _, _ := bytes.Cut(b[from:to], []byte{0})
		return string(before)
	}
	r = EraseRecord{
		State: EraseState(binary.LittleEndian.Uint32(b[20:])), Area: int64(binary.LittleEndian.Uint64(b[24:])),
		When: time.Unix(int64(binary.LittleEndian.Uint64(b[32:])), 0),
		UUID: text(eraseUUIDOffset, eraseLabelOffset), Label: text(eraseLabelOffset, eraseDataOffset),
	}
	copy(r.Data[:], b[eraseDataOffset:])
	valid := (r.State == EraseBegun || r.State == EraseDone) && r.Area >= EraseRecordOffset+BlockAlign && r.Area <= MaxHeaderArea
	return r, valid
}

// ReadEraseRecord looks for the record on a device.
func ReadEraseRecord(dev Device) (r EraseRecord, ok bool, err error) {
	if dev.Size() < EraseRecordOffset+BlockAlign {
		return r, false, nil
	}
	b := make([]byte, SectorBytes)
	if _, err := dev.ReadAt(b, EraseRecordOffset); err != nil {
		return r, false, fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	r, ok = ParseEraseRecord(b)
	return r, ok, nil
}

// DataSum returns what ties the record of a detached header to a device.
func DataSum(data Device) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(data, 0, min(MiB, data.Size()))); err != nil {
		return sum, fault.New(fault.IOFailed, "read "+data.Path(), err)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
