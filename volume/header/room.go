// SPDX-License-Identifier: Apache-2.0

package header

import "imxcrypt/volume/spec"

// Room returns how many bytes the data could have on the device as it is now. If a
// rotation has moved the data down into the gap in front of it, the missing part of the
// gap stays free at the end: the next rotation moves up.
func (h *Header) Room(s spec.Volume, c *Storage, d DeviceFacts) (int64, error) {
	end, unit := c.Data.Size(), int64(h.Segment.SectorSize)
	if !c.Detached() {
		l, err := PlanLayout(s, d)
		if err != nil {
			return 0, err
		}
		unit = BlockAlign
		end -= max(0, l.Gap()-(h.Segment.Offset-h.LUKS.Area()))
	}
	return max(0, end-h.Segment.Offset) / unit * unit, nil
}

// FreeCheckArea returns the check area that this header's check is not in.
func (h *Header) FreeCheckArea() int64 {
	if h.Check.Offset == CheckOffset(1) {
		return CheckOffset(2)
	}
	return CheckOffset(1)
}
