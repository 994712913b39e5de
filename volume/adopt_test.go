// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mkfs"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

const blobFile = "/data/caam/data.bb"

// byHand is how a volume is opened with keyctl and dmsetup.
type byHand struct {
	cipher     string
	sectorSize int
	offset     uint64 // sectors
	large      bool
	wrap       caam.Wrap
	// keySize is the size of a trusted key, 0 for 64.
	keySize int
}

func (h byHand) table(t *testing.T, key dmcrypt.KeyRef) dmcrypt.Table {
	t.Helper()
	var flags []string
	if h.large {
		flags = append(flags, "iv_large_sectors")
	}
	options, err := dmcrypt.CryptOptions(h.sectorSize, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return dmcrypt.Table{dmcrypt.Crypt{
		Length: 8 * mib / 512, Cipher: dmcrypt.Cipher(h.cipher), Key: key,
		Device: dmcrypt.Number{Major: 179, Minor: 8}, Offset: h.offset, Options: options,
	}}
}

// open opens the volume by hand and calls use with its node.
func (h byHand) open(t *testing.T, b *volumetest.Board, blob caam.Blob, use func(node string)) dmcrypt.Table {
	t.Helper()
	ctx := context.Background()
	black, err := b.Chip.Import(ctx, blob)
	if err != nil {
		t.Fatal(err)
	}
	defer black.Wipe()
	var table dmcrypt.Table
	err = b.Ring.WithLogonKey("logkey:", black.Bytes(), func() error {
		table = h.table(t, dmcrypt.KeyRef{Size: black.Len(), Type: "logon", Description: "logkey:"})
		n, err := b.DM.Activate(ctx, "byhand", "", table, false)
		if err == nil {
			use(fmt.Sprintf("/dev/dm-%d", n.Minor))
			err = b.DM.Remove(ctx, "byhand")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// make makes such a volume, with a filesystem and a file in it.
func (h byHand) make(t *testing.T, disk volumetest.Store) (*volumetest.Board, caam.Blob) {
	t.Helper()
	ctx := context.Background()
	b := newBoard(disk)
	black, blob, err := b.Chip.Create(ctx, h.wrap, 32)
	if err != nil {
		t.Fatal(err)
	}
	black.Wipe()
	h.open(t, b, blob, func(node string) {
		if err := b.System().Filesystems.Make(ctx, "ext4", node, mkfs.Options{Label: "old"}); err != nil {
			t.Fatal(err)
		}
		f, err := b.DM.Open(node, true)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("the quick brown fox"), userData); err != nil {
			t.Fatal(err)
		}
	})
	if err := b.Files.Create(blobFile, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	return b, blob
}

func adoptedSpec(h byHand) spec.Volume {
	s := bothPlacements()["detached"]
	s.Cipher, s.SectorSize, s.Wrap = h.cipher, h.sectorSize, string(h.wrap)
	return s
}

const plainTK = "capi:tk(cbc(aes))-plain"

func TestAnAdoptedVolumeIsOneOfOurs(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]byHand{
		"the recipe of the documentation": {cipher: plainTK, sectorSize: 512, wrap: caam.ECB},
		"4096-byte sectors":               {cipher: plainTK + "64", sectorSize: 4096, wrap: caam.CCM},
		"behind a partition table":        {cipher: plainTK + "64", sectorSize: 1024, offset: 2048, wrap: caam.CCM},
		"eboiv":                           {cipher: "capi:tk(cbc(aes))-eboiv", sectorSize: 4096, wrap: caam.ECB},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			disk := crashtest.NewImage(16 * mib)
			b, blob := h.make(t, disk)
			before := disk.Bytes()
			s := adoptedSpec(h)
			b = powerCycle(b)
			table := h.open(t, b, blob, func(string) {})

			// Only files are written: the device is read-only.
			b.Disks[0].ReadOnly = true
			r, err := b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Offset: h.offset, DryRun: true})
			must(t, r, err)
			if strings.Contains(strings.Join(b.Files.Names(), " "), s.Header) {
				t.Fatal("a dry run wrote the header")
			}
			// Given as a table, with the device as a path, as in scripts.
			line := "data: " + strings.Replace(table.String(), "179:8", "/dev/mmcblk2p3", 1)
			r, err = b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Table: line})
			must(t, r, err)
			r, err = b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Table: table.String()})
			if must(t, r, err); !r.Already {
				t.Fatal("adopted twice")
			}
			if b.Ring.Left() != 0 {
				t.Fatal("a key is left in a keyring")
			}
			b.Disks[0].ReadOnly = false

			b = powerCycle(b)
			r, err = b.Manager().Verify(ctx, s)
			must(t, r, err)
			hasItsData(t, b, s)
			if st := b.Manager().Status(ctx, s); st.State != volume.Locked || st.Err != nil {
				t.Fatalf("%s: %v", st.State, st.Err)
			}
			if !bytes.Equal(before, disk.Bytes()) {
				t.Fatal("the device was changed")
			}
			h.open(t, b, blob, func(node string) {
				f, err := b.DM.Open(node, false)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				text := make([]byte, 19)
				if _, err := f.ReadAt(text, userData); err != nil || string(text) != "the quick brown fox" {
					t.Fatalf("the old recipe: %q, %v", text, err)
				}
			})
		})
	}
}

// Whichever parameters do not fit, the right ones are named, and nothing is written.
func TestWrongParametersAreHelped(t *testing.T) {
	t.Parallel()
	var ways []byHand
	for _, mode := range []string{"plain64", "eboiv"} {
		for _, size := range []int{512, 1024, 2048, 4096} {
			for _, large := range []bool{false, true} {
				if (!large || size > 512) && (mode == "plain64" || size == 4096) {
					ways = append(ways, byHand{cipher: "capi:tk(cbc(aes))-" + mode, sectorSize: size, large: large, wrap: caam.CCM})
				}
			}
		}
	}
	for _, truth := range ways {
		t.Run(fmt.Sprintf("%s %d %v", truth.cipher, truth.sectorSize, truth.large), func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(8 * mib)
			b, _ := truth.make(t, disk)
			before, files := disk.Bytes(), len(b.Files.Names())
			for _, given := range ways {
				if given == truth || given.large {
					continue
				}
				_, err := b.Manager().Adopt(context.Background(), adoptedSpec(given), volume.AdoptOptions{Blob: blobFile})
				refused(t, err, fault.AdoptMismatch)
				if want := fmt.Sprintf("sector size %d", truth.sectorSize); !strings.Contains(err.Error(), "it fits with cipher "+truth.cipher) || !strings.Contains(err.Error(), want) ||
					truth.large != strings.Contains(err.Error(), "iv_large_sectors") {
					t.Fatalf("given %v: %v", given, err)
				}
			}
			if !bytes.Equal(before, disk.Bytes()) || len(b.Files.Names()) != files {
				t.Fatal("something was written")
			}
		})
	}
}

func TestAdoptRefusesWhatDoesNotBelongTogether(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := byHand{cipher: plainTK, sectorSize: 512, wrap: caam.ECB}
	disk := crashtest.NewImage(16 * mib)
	b, blob := h.make(t, disk)
	s := adoptedSpec(h)
	black, other, err := b.Chip.Create(ctx, caam.ECB, 32)
	if err != nil {
		t.Fatal(err)
	}
	black.Wipe()
	if err := b.Files.Create("/other.bb", other, 0o600); err != nil {
		t.Fatal(err)
	}
	table := h.table(t, dmcrypt.KeyRef{Size: 52, Type: "logon", Description: "logkey:"}).String()
	for name, c := range map[string]struct {
		change func(*spec.Volume)
		o      volume.AdoptOptions
		code   fault.Code
	}{
		"another volume's blob": {o: volume.AdoptOptions{Blob: "/other.bb"}, code: fault.AdoptMismatch},
		"another key size in the table, :36: as always": {
			o: volume.AdoptOptions{Blob: blobFile, Table: strings.Replace(table, ":52:", ":36:", 1)}, code: fault.AdoptMismatch},
		"another device in the table": {
			o: volume.AdoptOptions{Blob: blobFile, Table: strings.Replace(table, "179:8", "179:9", 1)}, code: fault.AdoptMismatch},
		"an iv_offset":       {o: volume.AdoptOptions{Blob: blobFile, Table: strings.Replace(table, " 0 179:8", " 8 179:8", 1)}, code: fault.Usage},
		"iv_large_sectors":   {o: volume.AdoptOptions{Blob: blobFile, Table: table[:len(table)-1] + "0 2 sector_size:4096 iv_large_sectors"}, code: fault.AdoptMismatch},
		"essiv":              {o: volume.AdoptOptions{Blob: blobFile, Cipher: "capi:tk(cbc(aes))-essiv:sha256"}, code: fault.CipherNotAllowed},
		"data begins beyond": {o: volume.AdoptOptions{Blob: blobFile, Offset: 1 << 40}, code: fault.AdoptMismatch},
		"no detached header": {change: func(s *spec.Volume) { s.Header = spec.HeaderOnDevice }, o: volume.AdoptOptions{Blob: blobFile}, code: fault.ConfigInvalid},
		"another filesystem": {change: func(s *spec.Volume) { s.Filesystem.Type = "xfs" }, o: volume.AdoptOptions{Blob: blobFile}, code: fault.FilesystemWrong},
		"another cipher in the configuration": {
			change: func(s *spec.Volume) { s.SectorSize = 4096 }, o: volume.AdoptOptions{Blob: blobFile, Table: table}, code: fault.HeaderMismatch},
		"another wrap in the configuration": {
			change: func(s *spec.Volume) { s.Wrap = "ccm" }, o: volume.AdoptOptions{Blob: blobFile}, code: fault.HeaderMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			s := s
			if c.change != nil {
				c.change(&s)
			}
			before, files := disk.Bytes(), len(b.Files.Names())
			_, err := b.Manager().Adopt(ctx, s, c.o)
			refused(t, err, c.code)
			if !bytes.Equal(before, disk.Bytes()) || len(b.Files.Names()) != files {
				t.Fatal("something was written")
			}
		})
	}

	// A file in the header's place is left alone.
	if err := b.Files.Create(s.Header, []byte("notes"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile})
	refused(t, err, fault.FileExists)
	_ = blob
}

// The form that 4.14 kernels wrote: ":hex:" and the bare blob.
func TestAnOldBlobIsConverted(t *testing.T) {
	t.Parallel()
	h := byHand{cipher: plainTK, sectorSize: 512, wrap: caam.ECB}
	b, blob := h.make(t, crashtest.NewImage(16*mib))
	old := append([]byte(":hex:"), blob[20:20+32+48]...)
	if err := b.Files.Create("/old.blob", old, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := b.Manager().Adopt(context.Background(), adoptedSpec(h), volume.AdoptOptions{Blob: "/old.blob"})
	must(t, r, err)
	hasItsData(t, b, adoptedSpec(h))
}

// sized is a disk of another size. Only its beginning exists; the rest is never touched.
type sized struct {
	volumetest.Store
	size int64
}

func (s sized) Size() int64 { return s.size }

// Beyond 2 TiB, plain and plain64 differ where nothing is examined: the configured or
// default one is not assumed to be the right one.
func TestBeyondTwoTebibytesTheCipherMustBeGiven(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := byHand{cipher: plainTK + "64", sectorSize: 512, wrap: caam.ECB}
	b, _ := h.make(t, sized{crashtest.NewImage(16 * mib), 3 << 40})
	s := adoptedSpec(h)
	before := len(b.Files.Names())
	for _, c := range []struct {
		cipher     string
		sectorSize int
		says       string
	}{
		{"", 0, "give the cipher"},
		{plainTK, 0, "repeats its IVs"},
		// What fits is not presented as certain.
		{plainTK + "64", 4096, "here they differ"},
	} {
		_, err := b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Cipher: c.cipher, SectorSize: c.sectorSize})
		refused(t, err, fault.AdoptMismatch)
		if !strings.Contains(err.Error(), c.says) || len(b.Files.Names()) != before {
			t.Errorf("expected %q: %v; files %q", c.says, err, b.Files.Names())
		}
	}
	r, err := b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Cipher: plainTK + "64"})
	if must(t, r, err); !strings.Contains(strings.Join(r.Warnings, " "), "proved only below 2 TiB") {
		t.Errorf("no warning: %q", r.Warnings)
	}

	// eboiv does not count sectors, and is proved as usual.
	h = byHand{cipher: "capi:tk(cbc(aes))-eboiv", sectorSize: 4096, wrap: caam.ECB}
	b, _ = h.make(t, sized{crashtest.NewImage(16 * mib), 3 << 40})
	r, err = b.Manager().Adopt(ctx, adoptedSpec(h), volume.AdoptOptions{Blob: blobFile})
	if must(t, r, err); len(r.Warnings) > 0 {
		t.Errorf("%q", r.Warnings)
	}
}
