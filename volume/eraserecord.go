// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
)

// eraseRecordOffset is where the record of an erase lies on a device that held
// its own header, in bytes: behind the check areas, so inside every header area
// there can be. It is not in the place of a header copy: a new header could then
// be torn over half of it.
const eraseRecordOffset = metadataSize + checkAreaCount*checkAreaSize

// eraseRecordSuffix is appended to the path of a detached header for the file
// that holds its record.
const eraseRecordSuffix = ".erased"

// eraseState tells how far an erase went.
type eraseState uint32

const (
	eraseBegun eraseState = 1 // header or blob may still be there, in parts
	eraseDone  eraseState = 2 // nothing is left in the header area
)

// eraseRecord stands where a volume was that erase destroyed. It is what
// permits provisioning to take a device that is full of ciphertext, and by what
// an interrupted erase is known. One sector, which is never torn; in a block of
// 4096 bytes, so that devices with such sectors need no read-modify-write:
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
type eraseRecord struct {
	State       eraseState
	Area        int64
	When        time.Time
	UUID, Label string
	// Data ties the record of a detached header to the device: a file stays
	// when a disk is changed.
	Data [sha256.Size]byte
}

const (
	eraseMagic       = "IMXCRYPT-ERASED\x00"
	eraseSumOffset   = 480
	eraseUUIDOffset  = 40
	eraseLabelOffset = 80
	eraseDataOffset  = 128
)

func (r eraseRecord) String() string {
	verb := "was erased"
	if r.State == eraseBegun {
		verb = "was being erased"
	}
	return fmt.Sprintf("volume %q (uuid %q) %s on %s", r.Label, r.UUID, verb, r.When.UTC().Format(time.DateOnly))
}

// block is the record as it is stored.
func (r eraseRecord) block() []byte {
	b := make([]byte, blockAlign)
	copy(b, eraseMagic)
	binary.LittleEndian.PutUint32(b[16:], 1)
	binary.LittleEndian.PutUint32(b[20:], uint32(r.State))
	binary.LittleEndian.PutUint64(b[24:], uint64(r.Area))
	binary.LittleEndian.PutUint64(b[32:], uint64(r.When.Unix()))
	copy(b[eraseUUIDOffset:eraseLabelOffset-1], r.UUID)
	copy(b[eraseLabelOffset:eraseDataOffset-1], r.Label)
	copy(b[eraseDataOffset:], r.Data[:])
	sum := sha256.Sum256(b[:eraseSumOffset])
	copy(b[eraseSumOffset:sectorBytes], sum[:])
	return b
}

// parseEraseRecord reads a record; ok is false for anything else.
func parseEraseRecord(b []byte) (r eraseRecord, ok bool) {
	if len(b) < sectorBytes || !bytes.HasPrefix(b, []byte(eraseMagic)) || binary.LittleEndian.Uint32(b[16:]) != 1 {
		return r, false
	}
	sum := sha256.Sum256(b[:eraseSumOffset])
	if !bytes.Equal(sum[:], b[eraseSumOffset:sectorBytes]) {
		return r, false
	}
	text := func(from, to int) string {
		before, _, _ := bytes.Cut(b[from:to], []byte{0})
		return string(before)
	}
	r = eraseRecord{
		State: eraseState(binary.LittleEndian.Uint32(b[20:])), Area: int64(binary.LittleEndian.Uint64(b[24:])),
		When: time.Unix(int64(binary.LittleEndian.Uint64(b[32:])), 0),
		UUID: text(eraseUUIDOffset, eraseLabelOffset), Label: text(eraseLabelOffset, eraseDataOffset),
	}
	copy(r.Data[:], b[eraseDataOffset:])
	valid := (r.State == eraseBegun || r.State == eraseDone) && r.Area >= eraseRecordOffset+blockAlign && r.Area <= maxHeaderArea
	return r, valid
}

// readEraseRecord looks for the record on a device.
func readEraseRecord(dev Device) (r eraseRecord, ok bool, err error) {
	if dev.Size() < eraseRecordOffset+blockAlign {
		return r, false, nil
	}
	b := make([]byte, sectorBytes)
	if _, err := dev.ReadAt(b, eraseRecordOffset); err != nil {
		return r, false, fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	r, ok = parseEraseRecord(b)
	return r, ok, nil
}

// eraseRecordOf looks for the record of volume s. data is its device.
func (m *Manager) eraseRecordOf(s Spec, data Device) (r eraseRecord, ok bool, err error) {
	if !s.Detached() {
		return readEraseRecord(data)
	}
	b, err := m.sys.Files.Read(s.Header+eraseRecordSuffix, atomicfile.ReadOptions{MaxSize: blockAlign})
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	if r, ok = parseEraseRecord(b); !ok {
		return r, false, nil
	}
	sum, err := dataSum(data)
	return r, err == nil && sum == r.Data, err
}

// dataSum is what ties the record of a detached header to a device.
func dataSum(data Device) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(data, 0, min(mib, data.Size()))); err != nil {
		return sum, fault.New(fault.IOFailed, "read "+data.Path(), err)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// erasedBefore tells whether erase has left the device to whoever provisions it
// next. A record alone does not say so: a device that is in other use since may
// still show it. So the rest of the header area must be as erase left it, or as
// an interrupted provisioning after it did.
func (m *Manager) erasedBefore(s Spec, data Device) (bool, error) {
	r, ok, err := m.eraseRecordOf(s, data)
	if err != nil || !ok || r.State != eraseDone {
		return false, err
	}
	if s.Detached() {
		return true, nil // the data is still the ciphertext that was erased
	}
	if r.Area > data.Size() {
		return false, nil
	}
	area := make([]byte, r.Area)
	if _, err := data.ReadAt(area, 0); err != nil {
		return false, fault.New(fault.IOFailed, "read "+data.Path(), err)
	}
	clear(area[eraseRecordOffset : eraseRecordOffset+blockAlign])
	if allZero(area) {
		return true, nil
	}
	_, unfinished, err := luks2.Unfinished(headerImage{area, data.Size()}, data.Size())
	return err == nil && unfinished && allZero(area[metadataSize:]), err
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// dropEraseRecord takes away the record of an earlier erase. It is called when a
// new header is there and nothing has been encrypted with its key: from then on
// nothing may permit to overwrite the device.
func (m *Manager) dropEraseRecord(s Spec, c *container) error {
	if s.Detached() {
		if err := m.sys.Files.Remove(s.Header + eraseRecordSuffix); err != nil {
			return fmt.Errorf("remove the record of an erase: %w", err)
		}
		return nil
	}
	r, ok, err := m.eraseRecordOf(s, c.data)
	if err != nil || !ok {
		return err
	}
	m.sys.Log.Debug("record of an erase removed", "volume", s.Name, "record", r.String())
	if _, err := c.header.WriteAt(make([]byte, blockAlign), eraseRecordOffset); err != nil {
		return fmt.Errorf("remove the record of an erase: %w", err)
	}
	return c.header.Flush()
}

// explainErased says of a volume without a usable header that erase was here.
func (c *container) explainErased(err error) error {
	if err == nil || c.erased == nil {
		return err
	}
	switch fault.CodeOf(err) {
	case fault.NotProvisioned, fault.ProvisioningStarted, fault.HeaderDamaged, fault.HeaderInvalid:
	default:
		return err // something else took the device, or it cannot be read
	}
	r, ok, readErr := c.erased()
	switch {
	case readErr != nil || !ok:
		return err
	case r.State == eraseBegun:
		return fault.New(fault.EraseStarted, r.String()+", and that was interrupted", err)
	case fault.Is(err, fault.NotProvisioned):
		return fault.New(fault.NotProvisioned, r.String(), err)
	}
	return err
}
