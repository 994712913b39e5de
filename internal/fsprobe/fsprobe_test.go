// SPDX-License-Identifier: Apache-2.0

package fsprobe_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"

	"golang.org/x/sys/unix"
)

func TestRecordedFilesystems(t *testing.T) {
	t.Parallel()
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			compare(t, load(t, s.name), s)
		})
	}
}

// The boot reads no more of the device than it must.
func TestReadTypeReadsLittle(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"ext4":  "0+8192",
		"xfs":   "0+4096",
		"btrfs": "65536+4096",
	} {
		m := load(t, name)
		r := &recorder{ReaderAt: m}
		if _, err := fsprobe.ReadType(r, m.size, name); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(r.reads, " "); got != want {
			t.Errorf("%s: read %s, want %s", name, got, want)
		}
	}
}

func TestReadTypeFindsNoOtherType(t *testing.T) {
	t.Parallel()
	m := load(t, "ext4")
	for _, fstype := range []string{"xfs", "btrfs", "f2fs", "vfat", "ntfs", ""} {
		if sb, err := fsprobe.ReadType(m, m.size, fstype); !errors.Is(err, fsprobe.ErrNone) {
			t.Errorf("ReadType(%q) = %+v, %v, want ErrNone", fstype, sb, err)
		}
	}
	if !fsprobe.Known("ext4") || !fsprobe.Known("vfat") || fsprobe.Known("ntfs") {
		t.Error("Known is wrong")
	}
}

// If any byte of a checksummed superblock changes, it no longer passes.
func TestChangedByteIsSeen(t *testing.T) {
	t.Parallel()
	ranges := map[string][2]int64{
		"ext4":            {1024, 2048},
		"ext4-seed":       {1024, 2048},
		"xfs":             {0, 512},
		"xfs-sector-4096": {0, 4096},
		"btrfs":           {64 << 10, 68 << 10},
		"btrfs-xxhash":    {64<<10 + 32, 68 << 10},
		"btrfs-sha256":    {64 << 10, 68 << 10},
		"f2fs-sum":        {1024, 4096},
	}
	for name, r := range ranges {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := load(t, name)
			fstype, _, _ := strings.Cut(name, "-")
			for off := r[0]; off < r[1]; off++ {
				// The rest of the checksum's field is not checked.
				if fstype == "btrfs" && off >= 64<<10+4 && off < 64<<10+32 {
					continue
				}
				old := m.get(off)
				m.set(off, old^0x10)
				if sb, err := fsprobe.ReadType(m, m.size, fstype); err == nil && sb.Verified {
					t.Fatalf("byte %d changed: still taken for %+v", off, sb)
				}
				m.set(off, old)
			}
		})
	}
}

// With a wrong IV, CBC corrupts only the first 16 bytes of each crypt sector: the case
// that a check of the magic number alone misses.
func TestWrongIVIsSeen(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, s := range samples {
		if !s.want.Verified {
			continue
		}
		for sector := int64(512); sector <= 4096; sector *= 2 {
			// A filesystem with smaller blocks cannot be on such sectors.
			if sector > int64(s.want.BlockSize) || strings.HasPrefix(s.name, "fat") && sector > fatSector(s.name) {
				continue
			}
			m := load(t, s.name)
			noise := &wrongIV{image: m, sector: sector, key: rng.Uint64()}
			if sb, err := fsprobe.Read(noise, m.size); err == nil && sb.Verified {
				t.Errorf("%s with sectors of %d: still verified by %q", s.name, sector, sb.Proof)
			}
		}
	}
}

// sectorOf returns the unit that a sample's filesystem writes in: its block, except for
// those that count in sectors.
func sectorOf(s sample) int {
	if s.want.Type == fsprobe.XFS || s.want.Type == fsprobe.VFAT {
		return int(fatSector(s.name))
	}
	return s.want.BlockSize
}

func fatSector(name string) int64 {
	if strings.HasSuffix(name, "4096") {
		return 4096
	}
	return 512
}

type wrongIV struct {
	*image
	sector int64
	key    uint64
}

func (w *wrongIV) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.image.ReadAt(p, off)
	for i := range p[:n] {
		at := off + int64(i)
		if in := at % w.sector; in < 16 {
			rng := rand.New(rand.NewPCG(w.key, uint64(at)))
			p[i] ^= byte(rng.Uint64())
		}
	}
	return n, err
}

// A wrong key turns everything into noise.
func TestNoiseIsNoFilesystem(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 256<<10)
	for range 50 {
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if sb, err := fsprobe.Read(bytes.NewReader(b), int64(len(b))); !errors.Is(err, fsprobe.ErrNone) {
			t.Fatalf("noise taken for %+v, %v", sb, err)
		}
	}
}

func TestSecondStructureMustAgree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		off  int64 // of a byte in the second structure
		say  string
	}{
		{"ext4-nosum", 32768*4096 + 0x68, "backup superblock"},
		{"ext4-nosum", 32768*4096 + 0x38, "backup superblock"},
		{"ext4", 4096, "group descriptor"},
		{"ext4-nosum-one-group", 4096 + 11, "group descriptor"},
		{"f2fs", 4096 + 1024 + 108, "second superblock"},
		{"fat32", 6*512 + 67, "backup boot sector"},
		{"fat16", 4 * 512, "allocation table"},
	} {
		m := load(t, c.name)
		m.set(c.off, m.get(c.off)^0xff)
		_, err := fsprobe.Read(m, m.size)
		var bad *fsprobe.ChecksumError
		if !errors.As(err, &bad) || !strings.Contains(bad.Error(), c.say) {
			t.Errorf("%s, byte %d changed: %v, want a *ChecksumError about the %s", c.name, c.off, err, c.say)
		}
		if fault.CodeOf(err) != fault.FilesystemWrong {
			t.Errorf("%s: fault %q", c.name, fault.CodeOf(err))
		}
	}
}

// One sound checkpoint of two is enough: a power cut may tear the other.
func TestF2FSNeedsOneCheckpoint(t *testing.T) {
	t.Parallel()
	m := load(t, "f2fs")
	start := int64(m.get(1024+76))*4096 + int64(m.get(1024+77))<<8*4096
	m.set(start+20, m.get(start+20)^1)
	_, errFirst := fsprobe.Read(m, m.size)
	second := start + 512*4096
	m.set(second+20, m.get(second+20)^1)
	_, errBoth := fsprobe.Read(m, m.size)
	if errFirst != nil {
		t.Errorf("first checkpoint damaged: %v", errFirst)
	}
	if errBoth == nil {
		t.Error("both checkpoints damaged: still accepted")
	}
}

func TestNeedsCheck(t *testing.T) {
	t.Parallel()
	const sb = 1024
	for _, c := range []struct {
		name  string
		image string
		set   map[int64]byte
		want  bool
	}{
		{"clean", "ext4-nosum", nil, false},
		{"errors recorded", "ext4-nosum", map[int64]byte{sb + 0x3a: 0x3}, true},
		{"journal to be replayed", "ext4-nosum", map[int64]byte{sb + 0x60: 0x46 | 0x80}, false},
		{"not unmounted, journal", "ext4-nosum", map[int64]byte{sb + 0x3a: 0x0}, false},
		{"not unmounted, no journal", "ext2", map[int64]byte{sb + 0x3a: 0x0}, true},
		{"mount count reached", "ext2", map[int64]byte{sb + 0x34: 20, sb + 0x36: 20, sb + 0x37: 0}, true},
		{"mount count not reached", "ext2", map[int64]byte{sb + 0x34: 19, sb + 0x36: 20, sb + 0x37: 0}, false},
		{"vfat dirty", "fat16", map[int64]byte{37: 1}, true},
		{"vfat 32 dirty", "fat32", map[int64]byte{65: 1}, true},
	} {
		m := load(t, c.image)
		for off, b := range c.set {
			m.set(off, b)
		}
		got, err := fsprobe.Read(m, m.size)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got.NeedsCheck != c.want {
			t.Errorf("%s: NeedsCheck = %v", c.name, got.NeedsCheck)
		}
	}
}

// A filesystem that ends beyond the end of its device was cut off.
func TestDeviceTooSmall(t *testing.T) {
	t.Parallel()
	for _, s := range samples {
		if s.want.Type == "btrfs" {
			continue // its size is the sum over all its devices
		}
		m := load(t, s.name)
		m.size -= 8192
		if sb, err := fsprobe.Read(m, m.size); err == nil {
			t.Errorf("%s cut short is taken for %+v", s.name, sb)
		}
	}
}

func TestTinyAndEmptyDevices(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, 511, 512, 1024, 1536, 4095, 4096, 65536, 65537, 1 << 20} {
		m := &image{size: size}
		if sb, err := fsprobe.Read(m, size); !errors.Is(err, fsprobe.ErrNone) {
			t.Errorf("%d zero bytes: %+v, %v", size, sb, err)
		}
		if name, err := fsprobe.Signature(m, size); name != "" || err != nil {
			t.Errorf("%d zero bytes: signature %q, %v", size, name, err)
		}
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// With an authenticating cipher, a wrong key shows as EIO or EILSEQ: the caller must get
// these errors as they are.
func TestReadErrorIsHandedOn(t *testing.T) {
	t.Parallel()
	for _, errno := range []error{unix.EIO, unix.EILSEQ, io.EOF} {
		want := errno
		if errno == io.EOF {
			want = io.ErrUnexpectedEOF
		}
		_, err1 := fsprobe.Read(failing{errno}, 1<<20)
		_, err2 := fsprobe.ReadType(failing{errno}, 1<<20, "ext4")
		_, err3 := fsprobe.Signature(failing{errno}, 1<<20)
		for _, err := range []error{err1, err2, err3} {
			if !errors.Is(err, want) {
				t.Errorf("error %v became %v", errno, err)
			}
		}
	}
}

func TestSignature(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	for _, c := range []struct {
		off   int64
		magic string
		want  string
	}{
		{0, "LUKS\xba\xbe\x00\x01", "luks1"},
		{0, "LUKS\xba\xbe\x00\x02", "luks2"},
		{0, "LUKS\xba\xbe\x00\x07", "luks"},
		{4086, "SWAPSPACE2", "swap"},
		{512, "LABELONE", "lvm2"},
		{0, "hsqs", "squashfs"},
		{0x8001, "CD001", "iso9660"},
		{512, "EFI PART", "gpt"},
		{size - 512, "EFI PART", "gpt (second copy)"},
		{510, "\x55\xaa", "mbr or boot sector"},
		{128 << 10, "\x0c\xb1\xba\x00\x00\x00\x00\x00", "zfs"},
		{4096, "\xfc\x4e\x2b\xa9", "md"},
		// A superblock too damaged to be read is still worth naming.
		{1024 + 0x38, "\x53\xef", "ext2, ext3 or ext4"},
		{0, "XFSB", "xfs"},
	} {
		b := make([]byte, size)
		copy(b[c.off:], c.magic)
		if got, err := fsprobe.Signature(bytes.NewReader(b), size); got != c.want || err != nil {
			t.Errorf("%q at %d: %q, %v, want %q", c.magic, c.off, got, err, c.want)
		}
	}
}

// A LUKS header over the remains of a filesystem is a LUKS device.
func TestSignatureWrapperFirst(t *testing.T) {
	t.Parallel()
	m := load(t, "ext4")
	for i, b := range []byte("LUKS\xba\xbe\x00\x02") {
		m.set(int64(i), b)
	}
	if got, err := fsprobe.Signature(m, m.size); got != "luks2" || err != nil {
		t.Errorf("Signature = %q, %v", got, err)
	}
}

// FuzzRead changes some bytes of a recorded filesystem, or of an empty image: with whole
// images as inputs, the fuzzer would have no time to try any.
func FuzzRead(f *testing.F) {
	images := []*image{{size: 1 << 20}}
	for _, s := range samples {
		images = append(images, load(f, s.name))
	}
	for i, m := range images {
		f.Add(uint8(i), uint32(1024), []byte{}, m.size)
		f.Add(uint8(i), uint32(10), []byte{0, 2, 1}, m.size)
		f.Add(uint8(i), uint32(1024+0x18), []byte{2, 0, 0, 0}, m.size)
		f.Add(uint8(i), uint32(64<<10+0x90), []byte{0, 0, 1, 0}, m.size)
	}
	f.Fuzz(func(t *testing.T, which uint8, off uint32, patch []byte, size int64) {
		if size < 0 || size > 1<<50 {
			return
		}
		from := images[int(which)%len(images)]
		m := &image{size: size, pages: maps.Clone(from.pages)}
		for i, b := range patch {
			at := int64(off%(72<<10)) + int64(i)
			if p := from.pages[at/pageSize]; i == 0 || at%pageSize == 0 {
				c := make([]byte, pageSize)
				copy(c, p)
				if m.pages == nil {
					m.pages = map[int64][]byte{}
				}
				m.pages[at/pageSize] = c
			}
			m.set(at, b)
		}
		sb, err := fsprobe.Read(m, size)
		if (sb == nil) == (err == nil) {
			t.Fatalf("Read = %+v, %v", sb, err)
		}
		if err == nil {
			if !fsprobe.Known(sb.Type) || sb.Size <= 0 || sb.BlockSize <= 0 || sb.Proof == "" {
				t.Fatalf("Read = %+v", sb)
			}
			if sb.Type != fsprobe.Btrfs && sb.Size > size {
				t.Fatalf("filesystem of %d bytes on a device of %d", sb.Size, size)
			}
		} else if !errors.Is(err, fsprobe.ErrNone) && !errors.As(err, new(*fsprobe.ChecksumError)) {
			t.Fatalf("Read: %v, but the device can be read", err)
		}
		if _, err := fsprobe.Signature(m, size); err != nil {
			t.Fatal(err)
		}
	})
}
