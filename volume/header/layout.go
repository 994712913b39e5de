// SPDX-License-Identifier: Apache-2.0

package header

import (
	"fmt"

	"imxcrypt/internal/fault"
	"imxcrypt/volume/spec"
)

// Layout says where things are on the device, in bytes.
type Layout struct {
	// HeaderSize is the size of the header area: two metadata copies, then the keyslots
	// area with the check areas and the records of a rotation. It is 0 if the header is
	// detached.
	HeaderSize int64
	// DataOffset and DataSize are the segment. Between HeaderSize and DataOffset is the
	// gap, into which a rotation moves the data.
	DataOffset, DataSize int64
}

// Gap returns the free space in front of the data in bytes.
func (l Layout) Gap() int64 { return l.DataOffset - l.HeaderSize }

// Sizes in bytes.
const (
	KiB = int64(1) << 10
	MiB = int64(1) << 20

	// BlockAlign is what offsets and sizes on the device are multiples of: the
	// largest encryption sector and the largest logical block in use.
	BlockAlign = 4096

	// smallDevice is the size up to which the gap is not widened, and the data not
	// aligned to the storage's erase size: on such devices space matters more.
	smallDevice = 64 * MiB

	// maxEraseSize is the largest erase size that is accepted.
	maxEraseSize = 64 * MiB

	// wideGap is the minimum gap on larger devices. A rotation flushes and records for
	// each half of a gap, so 4 MiB are faster by half than 1 MiB (docs/rotation.md).
	wideGap = 4 * MiB

	// MinData is the smallest data area that makes a useful volume; ext4 needs less.
	MinData = 1 * MiB
)

// The keyslots area begins behind the two metadata copies of 16 KiB. A check area is one
// block; during a rotation two generations have one each.
const (
	MetadataSize   = 2 * 16 * KiB
	CheckAreaSize  = 4096
	checkAreaCount = 2
)

// CheckOffset returns the check area of a generation, in bytes from the header's start.
// Consecutive generations have different ones. When a volume is resized, its new check
// goes into the other one.
func CheckOffset(generation int) int64 {
	return MetadataSize + int64((generation-1)%checkAreaCount)*CheckAreaSize
}

// DeviceFacts are what the layout depends on.
type DeviceFacts struct {
	Path      string
	Size      int64
	EraseSize int64
}

// PlanLayout places a new volume. Its error is of code device-unsuitable.
func PlanLayout(s spec.Volume, d DeviceFacts) (Layout, error) {
	if s.Detached() {
		if d.Size%int64(s.SectorSize) != 0 {
			return Layout{}, fault.New(fault.DeviceUnsuitable, fmt.Sprintf(
				"%s is %d bytes long, which is not a multiple of the sector size %d", d.Path, d.Size, s.SectorSize), nil)
		}
		if d.Size < MinData {
			return Layout{}, tooSmall(d, MinData)
		}
		return Layout{DataSize: d.Size}, nil
	}
	gap, align := s.Gap, int64(BlockAlign)
	if d.Size > smallDevice {
		if gap > 0 {
			gap = max(gap, wideGap)
		}
		if e := d.EraseSize; e > 0 && e <= maxEraseSize && e%BlockAlign == 0 {
			gap, align = max(gap, e), e
		}
	}
	offset := roundUp(s.HeaderSize+gap, align)
	if offset < s.HeaderSize || d.Size < offset+MinData {
		return Layout{}, tooSmall(d, offset+MinData)
	}
	return Layout{
		HeaderSize: s.HeaderSize,
		DataOffset: offset,
		DataSize:   (d.Size - offset) / BlockAlign * BlockAlign,
	}, nil
}

// PlanOver places a volume on a device that begins with a filesystem, with nothing in
// front of it. The data moves up from byte 0; until then its first bytes, which the
// header replaces, are kept at the end. Its error is of code device-unsuitable.
func PlanOver(s spec.Volume, d DeviceFacts) (Layout, Start, error) {
	l, err := PlanLayout(s, d)
	if err != nil {
		return l, Start{}, err
	}
	start := PlanStart(d.Size, s.HeaderSize)
	l.DataSize = start.Saved - l.DataOffset
	if l.DataSize <= max(s.HeaderSize, MinData) || start.Staged < l.DataSize {
		return l, start, tooSmall(d, d.Size-l.DataSize+max(s.HeaderSize, MinData)+BlockAlign)
	}
	return l, start, nil
}

func tooSmall(d DeviceFacts, need int64) error {
	return fault.New(fault.DeviceUnsuitable, fmt.Sprintf(
		"%s has %d KiB, this volume needs at least %d KiB", d.Path, d.Size/KiB, (need+KiB-1)/KiB), nil)
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// MaxHeaderArea is the largest header area in bytes that the configuration allows, and so
// the largest that is accepted.
const MaxHeaderArea = 16 * MiB

// SectorBytes is the unit of device-mapper tables and of LUKS2.
const SectorBytes = 512
