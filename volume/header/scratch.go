// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"imxcrypt/internal/blank"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume/spec"
)

// ScratchArea is the space in front of the data of a volume with a throw-away key.
const ScratchArea = MiB

// ScratchMark is what provisioning leaves on the device of a volume with a throw-away
// key. It says that what follows may be overwritten each time the volume is unlocked. It
// is the first sector, which is never torn and which every other use of the device
// overwrites. The rest of [ScratchArea] is blank, so that a superblock which leaves the
// first sector alone is noticed.
//
//	  0  16  "IMXCRYPT-SCRATCH"
//	 16   4  version 1, little-endian, as all numbers
//	 24   8  size of the device in bytes
//	 40  40  uuid, zero-padded
//	 80  48  the volume's name, zero-padded
//	480  32  SHA-256 of bytes 0 to 479
type ScratchMark struct {
	Size        int64
	UUID, Label string
}

const scratchMagic = "IMXCRYPT-SCRATCH"

// Sector returns the mark as it is stored.
func (k ScratchMark) Sector() []byte {
	b := make([]byte, SectorBytes)
	copy(b, scratchMagic)
	binary.LittleEndian.PutUint32(b[16:], 1)
	binary.LittleEndian.PutUint64(b[24:], uint64(k.Size))
	copy(b[eraseUUIDOffset:eraseLabelOffset-1], k.UUID)
	copy(b[eraseLabelOffset:eraseDataOffset-1], k.Label)
	sum := sha256.Sum256(b[:eraseSumOffset])
	copy(b[eraseSumOffset:], sum[:])
	return b
}

// ReadScratchMark reads the mark of volume s on its device. If there is none, the error
// says what is there instead: not-provisioned if nothing known is.
func ReadScratchMark(s spec.Volume, dev Device) (k ScratchMark, err error) {
	if dev.Size() < 2*ScratchArea {
		return k, fault.Newf(fault.DeviceUnsuitable, "%s has %d bytes, and a volume with a throw-away key needs %d", dev.Path(), dev.Size(), 2*ScratchArea)
	}
	area := make([]byte, ScratchArea)
	if _, err := dev.ReadAt(area, 0); err != nil {
		return k, fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	sum := sha256.Sum256(area[:eraseSumOffset])
	if !bytes.HasPrefix(area, []byte(scratchMagic)) || binary.LittleEndian.Uint32(area[16:]) != 1 || !bytes.Equal(sum[:], area[eraseSumOffset:SectorBytes]) {
		return k, NotAHeader(dev)
	}
	text := func(from, to int) string {
		before, _, _ := bytes.Cut(area[from:to], []byte{0})
		return string(before)
	}
	k = ScratchMark{Size: int64(binary.LittleEndian.Uint64(area[24:])), UUID: text(eraseUUIDOffset, eraseLabelOffset), Label: text(eraseLabelOffset, eraseDataOffset)}
	switch rest := area[SectorBytes:]; {
	case k.Label != s.Name:
		return k, fault.Newf(fault.HeaderMismatch, "%s is marked for the throw-away key of volume %q, not of %q", dev.Path(), k.Label, s.Name)
	case k.Size != dev.Size():
		return k, fault.Newf(fault.HeaderMismatch, "%s was marked for volume %q when it had %d bytes, and it has %d: partitions may have been moved, check them first", dev.Path(), k.Label, k.Size, dev.Size())
	case !luks2.ValidUUID(k.UUID):
		return k, fault.Newf(fault.HeaderMismatch, "the mark on %s has the uuid %q", dev.Path(), k.UUID)
	case !blank.Erased(rest):
		return k, fault.Newf(fault.NotEmpty, "%s is marked for volume %q, and something else has been written behind the mark", dev.Path(), k.Label)
	}
	return k, nil
}

// HasScratchMark reports whether a device begins with the mark of any volume.
func HasScratchMark(dev Device) bool {
	b := make([]byte, SectorBytes)
	_, err := dev.ReadAt(b, 0)
	return err == nil && bytes.HasPrefix(b, []byte(scratchMagic))
}

// Scratch returns a header that is never written. It describes the data behind a mark,
// under a key that is never stored.
func Scratch(s spec.Volume, k ScratchMark) *Header {
	size := k.Size - ScratchArea
	return &Header{
		LUKS:  &luks2.Header{UUID: k.UUID, Label: k.Label},
		Token: Token{Source: s.Source, Generation: 1, Phase: PhaseReady},
		// Nothing proves the key except its use.
		Check: Check{Size: CheckAreaSize},
		Segment: luks2.Segment{
			Type: luks2.SegmentCrypt, Offset: ScratchArea, Size: size - size%int64(s.SectorSize), Encryption: s.Cipher, SectorSize: s.SectorSize,
		},
	}
}
