// SPDX-License-Identifier: Apache-2.0

package header

import (
	"testing"

	"imxcrypt/internal/fault"
	"imxcrypt/volume/spec"
)

func TestLayoutOfANewVolume(t *testing.T) {
	t.Parallel()
	const header = 1 * MiB
	for name, c := range map[string]struct {
		gap, size, erase int64
		offset           int64 // of the data; 0: refused
	}{
		"small device":                      {gap: MiB, size: 16 * MiB, offset: 2 * MiB},
		"small device, large erase size":    {gap: MiB, size: 64 * MiB, erase: 4 * MiB, offset: 2 * MiB},
		"large device":                      {gap: MiB, size: 65 * MiB, offset: 5 * MiB},
		"large device, erase size given":    {gap: MiB, size: 65 * MiB, erase: 4 * MiB, offset: 8 * MiB},
		"large device, small erase size":    {gap: MiB, size: 65 * MiB, erase: MiB / 2, offset: 5 * MiB},
		"large device, a block to discard":  {gap: MiB, size: 65 * MiB, erase: 4096, offset: 5 * MiB},
		"large device, large erase size":    {gap: MiB, size: 65 * MiB, erase: 16 * MiB, offset: 32 * MiB},
		"large device, erase size nonsense": {gap: MiB, size: 65 * MiB, erase: 1000, offset: 5 * MiB},
		"large device, wider gap asked for": {gap: 16 * MiB, size: 65 * MiB, offset: 17 * MiB},
		"large device, no gap asked for":    {gap: 0, size: 65 * MiB, offset: 1 * MiB},
		"too small":                         {gap: MiB, size: 2 * MiB},
		"gap beyond the device":             {gap: 1 << 30, size: 65 * MiB},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := spec.Volume{Header: spec.HeaderOnDevice, HeaderSize: header, Gap: c.gap, SectorSize: 4096}
			l, err := PlanLayout(s, DeviceFacts{Path: "/dev/x", Size: c.size, EraseSize: c.erase})
			if c.offset == 0 {
				if fault.CodeOf(err) != fault.DeviceUnsuitable {
					t.Fatalf("%+v, %v", l, err)
				}
				return
			}
			if want := (Layout{HeaderSize: header, DataOffset: c.offset, DataSize: c.size - c.offset}); err != nil || l != want {
				t.Fatalf("%+v, %v; want %+v", l, err, want)
			}
		})
	}
}
