// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"fmt"

	"imxcrypt/internal/fault"
)

// Layout is where things lie on the device, in bytes.
type Layout struct {
	// HeaderSize is the header area: two metadata copies, then the keyslots
	// area with the check areas and the records of a rotation. 0 if detached.
	HeaderSize int64
	// DataOffset and DataSize are the segment. Between HeaderSize and
	// DataOffset lies the gap, which a rotation moves the data into.
	DataOffset, DataSize int64
}

// Gap is the free space in front of the data in bytes.
func (l Layout) Gap() int64 { return l.DataOffset - l.HeaderSize }

const (
	kib = int64(1) << 10
	mib = int64(1) << 20

	// blockAlign is what offsets and sizes on the device are multiples of: the
	// largest encryption sector and the largest logical block in use.
	blockAlign = 4096

	// smallDevice is the size up to which the gap is not widened, and the data
	// not aligned to the storage's erase size: there the space matters more.
	smallDevice = 64 * mib

	// maxEraseSize is the largest erase size that is believed.
	maxEraseSize = 64 * mib

	// wideGap is the least that the gap is widened to on larger devices. A
	// rotation flushes and records for each half of a gap, so that 4 MiB are
	// faster by half than 1 MiB (docs/rotation.md).
	wideGap = 4 * mib

	// minData is the least data area that is worth a volume; ext4 needs less.
	minData = 1 * mib
)

// The keyslots area begins behind the two metadata copies of 16 KiB. A check
// area is one block; two generations have one each while a rotation runs.
const (
	metadataSize   = 2 * 16 * kib
	checkAreaSize  = 4096
	checkAreaCount = 2
)

// checkOffset is the check area of a generation, in bytes from the header's
// start. Neighbouring generations have different ones.
func checkOffset(generation int) int64 {
	return metadataSize + int64((generation-1)%checkAreaCount)*checkAreaSize
}

// deviceFacts is what the layout depends on.
type deviceFacts struct {
	path      string
	size      int64
	eraseSize int64
}

// planLayout places a new volume. An error is of code device-unsuitable.
func planLayout(s Spec, d deviceFacts) (Layout, error) {
	if s.Detached() {
		if d.size%int64(s.SectorSize) != 0 {
			return Layout{}, fault.New(fault.DeviceUnsuitable, fmt.Sprintf(
				"%s is %d bytes long, which is no multiple of the sector size %d", d.path, d.size, s.SectorSize), nil)
		}
		if d.size < minData {
			return Layout{}, tooSmall(d, minData)
		}
		return Layout{DataSize: d.size}, nil
	}
	gap, align := s.Gap, int64(blockAlign)
	if d.size > smallDevice {
		if gap > 0 {
			gap = max(gap, wideGap)
		}
		if e := d.eraseSize; e > 0 && e <= maxEraseSize && e%blockAlign == 0 {
			gap, align = max(gap, e), e
		}
	}
	offset := roundUp(s.HeaderSize+gap, align)
	if offset < s.HeaderSize || d.size < offset+minData {
		return Layout{}, tooSmall(d, offset+minData)
	}
	return Layout{
		HeaderSize: s.HeaderSize,
		DataOffset: offset,
		DataSize:   (d.size - offset) / blockAlign * blockAlign,
	}, nil
}

func tooSmall(d deviceFacts, need int64) error {
	return fault.New(fault.DeviceUnsuitable, fmt.Sprintf(
		"%s has %d KiB, this volume needs at least %d KiB", d.path, d.size/kib, (need+kib-1)/kib), nil)
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
