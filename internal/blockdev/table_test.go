// SPDX-License-Identifier: Apache-2.0

// These tests need no kernel of their own, so they need not run on an emulated one.
//go:build !vm

package blockdev

import (
	"bytes"
	"errors"
	"testing"
)

func TestReadTable(t *testing.T) {
	t.Parallel()
	good := gptDisk(part{2, uuidA, "data"})
	gpt, _, err := readTable(bytes.NewReader(good), int64(len(good)), 512)
	if want := (tableEntry{number: 2, uuid: uuidA, name: "data"}); err != nil || len(gpt) != 1 || gpt[0] != want {
		t.Errorf("%+v, %v, want %+v", gpt, err, want)
	}
	if _, _, err := readTable(bytes.NewReader(empty()), 64<<10, 512); !errors.Is(err, errNoTable) {
		t.Errorf("empty disk: %v", err)
	}
}

// Damage to one copy does no harm wherever it is, damage to both is reported.
func TestReadTableDamaged(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	last := size - 512
	for _, off := range []int{0, 8, 12, 16, 24, 60, 72, 80, 84, 88} {
		b := gptDisk(part{1, uuidA, "data"})
		b[512+off] ^= 0x40
		if gpt, _, err := readTable(bytes.NewReader(b), size, 512); err != nil || len(gpt) != 1 {
			t.Errorf("byte %d of the first header: %v", off, err)
		}
		b[last+off] ^= 0x40
		if gpt, _, err := readTable(bytes.NewReader(b), size, 512); err == nil {
			t.Errorf("byte %d of both headers: %v accepted", off, gpt)
		}
	}
	b := gptDisk(part{1, uuidA, "data"})
	b[1024+20] ^= 1 // an entry
	if gpt, _, err := readTable(bytes.NewReader(b), size, 512); err != nil || gpt[0].uuid != uuidA {
		t.Errorf("first copy of the entries damaged: %v, %v", gpt, err)
	}
}

func FuzzReadTable(f *testing.F) {
	disk := gptDisk(part{1, uuidA, "data"}, part{128, uuidB, "last"})
	f.Add(disk[:34*512], 512)
	f.Add(disk[:512], 4096)
	f.Add(empty()[:1024], 512)
	f.Fuzz(func(t *testing.T, b []byte, block int) {
		gpt, _, err := readTable(bytes.NewReader(b), int64(len(b)), block)
		if err != nil && gpt != nil {
			t.Errorf("%v with %v", gpt, err)
		}
		for _, e := range gpt {
			if e.number < 1 || e.number > gptMaxEntries || len(e.uuid) != 36 {
				t.Errorf("entry %+v", e)
			}
		}
	})
}

func FuzzIdentify(f *testing.F) {
	f.Add(luks(2, 0, uuidA, "data")[:8192])
	f.Add(luks(1, 0, uuidA, "")[:8192])
	f.Add(luks(2, 0x4000, uuidA, "data")[:0x8000])
	f.Add(fatImage(1, "FAT")[:8192])
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, read := range []identifier{identify, identifyByCopy} {
			id, err := read(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Errorf("%v, but the device can be read", err)
			}
			if len(id.label) > 1536 || len(id.uuid) > luksUUIDSize {
				t.Errorf("%+v", id)
			}
		}
	})
}
