// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"testing"

	"imxcrypt/internal/fault"
)

func TestLayoutOfANewVolume(t *testing.T) {
	t.Parallel()
	const header = 1 * mib
	for name, c := range map[string]struct {
		gap, size, erase int64
		offset           int64 // of the data; 0: refused
	}{
		"small device":                      {gap: mib, size: 16 * mib, offset: 2 * mib},
		"small device, large erase size":    {gap: mib, size: 64 * mib, erase: 4 * mib, offset: 2 * mib},
		"large device":                      {gap: mib, size: 65 * mib, offset: 5 * mib},
		"large device, erase size told":     {gap: mib, size: 65 * mib, erase: 4 * mib, offset: 8 * mib},
		"large device, small erase size":    {gap: mib, size: 65 * mib, erase: mib / 2, offset: 5 * mib},
		"large device, a block to discard":  {gap: mib, size: 65 * mib, erase: 4096, offset: 5 * mib},
		"large device, large erase size":    {gap: mib, size: 65 * mib, erase: 16 * mib, offset: 32 * mib},
		"large device, erase size nonsense": {gap: mib, size: 65 * mib, erase: 1000, offset: 5 * mib},
		"large device, wider gap asked for": {gap: 16 * mib, size: 65 * mib, offset: 17 * mib},
		"large device, no gap asked for":    {gap: 0, size: 65 * mib, offset: 1 * mib},
		"too small":                         {gap: mib, size: 2 * mib},
		"gap beyond the device":             {gap: 1 << 30, size: 65 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Spec{Header: HeaderOnDevice, HeaderSize: header, Gap: c.gap, SectorSize: 4096}
			l, err := planLayout(s, deviceFacts{path: "/dev/x", size: c.size, eraseSize: c.erase})
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
