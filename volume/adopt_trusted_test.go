// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/internal/mkfs"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// trustedKey refers to the key of such a volume, of 64 bytes unless keySize says
// otherwise.
func (h byHand) trustedKey() dmcrypt.KeyRef {
	return dmcrypt.KeyRef{Size: cmp.Or(h.keySize, 64), Type: "trusted", Description: "kmk"}
}

// makeTrusted makes a volume as with keyctl and dmsetup: with a trusted key whose blob is
// saved as `keyctl pipe` prints it.
func (h byHand) makeTrusted(t *testing.T, disk volumetest.Store) *volumetest.Board {
	t.Helper()
	ctx := context.Background()
	b := newBoard(disk)
	_, blob, err := b.Chip.NewTrusted(h.trustedKey().Size)
	if err != nil {
		t.Fatal(err)
	}
	text := hex.EncodeToString(blob)
	err = b.Ring.WithTrustedKey("kmk", "load "+text, func(func() ([]byte, error)) error {
		n, err := b.DM.Activate(ctx, "byhand", "", h.table(t, h.trustedKey()), false)
		if err != nil {
			return err
		}
		node := fmt.Sprintf("/dev/dm-%d", n.Minor)
		if err := b.System().Filesystems.Make(ctx, "ext4", node, mkfs.Options{Label: "old"}); err != nil {
			return err
		}
		f, err := b.DM.Open(node, true)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt([]byte("the quick brown fox"), userData); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		return b.DM.Remove(ctx, "byhand")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Files.Create(blobFile, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

func trustedAdopted(h byHand) spec.Volume {
	s := trustedFrom(bothPlacements()["detached"])
	s.SectorSize, s.Cipher, s.KeySize = h.sectorSize, keysource.Canonical(h.cipher), h.trustedKey().Size
	if s.Cipher == keysource.CBCPlain {
		s.Cipher = keysource.CBC
	}
	return s
}

// A volume that was made by hand with a trusted key is adopted with its bytes untouched;
// source auto recognises the key by its blob.
func TestAVolumeWithATrustedKeyIsAdopted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, h := range map[string]byHand{
		"sectors of 512":           {cipher: "aes-xts-plain64", sectorSize: 512},
		"sectors of 4096":          {cipher: "aes-xts-plain64", sectorSize: 4096},
		"behind a partition table": {cipher: "aes-xts-plain64", sectorSize: 1024, offset: 2048},
		"half the key":             {cipher: "aes-xts-plain64", sectorSize: 4096, keySize: 32},
		"adiantum":                 {cipher: keysource.Adiantum, sectorSize: 4096, keySize: 32},
		"essiv":                    {cipher: "aes-cbc-essiv:sha256", sectorSize: 512, keySize: 32},
		// The device from its first sector, with the cipher as given to cryptsetup open
		// --type plain.
		"a plain device, xts":      {cipher: "capi:xts(aes)-plain64", sectorSize: 512, keySize: 64},
		"a plain device, adiantum": {cipher: "xchacha12,aes-adiantum-plain64", sectorSize: 4096, keySize: 32},
		"a plain device, essiv":    {cipher: "capi:cbc(aes)-essiv:sha256", sectorSize: 512, keySize: 32},
		"Toradex' layer":           {cipher: "capi:cbc(aes)-plain", sectorSize: 512, keySize: 32},
		"Toradex' layer, xts":      {cipher: "capi:xts(aes)-plain64", sectorSize: 512, keySize: 64},
		"CBC, 4096":                {cipher: "aes-cbc-plain64", sectorSize: 4096, keySize: 32},
	} {
		for _, auto := range []bool{false, true} {
			if auto && trustedAdopted(h).Cipher == keysource.CBC {
				continue // with these the source must be named
			}
			t.Run(fmt.Sprintf("%s, auto %v", name, auto), func(t *testing.T) {
				t.Parallel()
				disk := crashtest.NewImage(16 * mib)
				b := h.makeTrusted(t, disk)
				s := trustedAdopted(h)
				if auto {
					s.Source = spec.SourceAuto
					if s.Cipher == "aes-xts-plain64" && s.KeySize == 64 { // the default of trusted keys
						s.Cipher, s.KeySize = "", 0
					}
				}
				before := disk.Bytes()
				b.Disks[0].ReadOnly = true
				line := h.table(t, h.trustedKey()).String()
				r, err := b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Table: line, DryRun: true})
				must(t, r, err)
				r, err = b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Offset: h.offset})
				must(t, r, err)
				if r, err = b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Offset: h.offset}); err != nil || !r.Already {
					t.Errorf("adopted again: %+v, %v", r, err)
				}
				b.Disks[0].ReadOnly = false
				b = powerCycle(b)
				r, err = b.Manager().Verify(ctx, s)
				must(t, r, err)
				hasItsData(t, b, s)
				same(t, "the device", disk.Bytes(), before)
				if st := b.Manager().Status(ctx, s); st.Err != nil || st.Source != spec.SourceTrusted || b.Ring.Left() != 0 {
					t.Errorf("%+v, %d keys left", st, b.Ring.Left())
				}
			})
		}
	}
}

// With XTS a superblock in the first sector does not show how the other sectors are
// numbered: what follows it does. The right way is named, and nothing is written.
func TestWrongParametersOfATrustedKeyAreHelped(t *testing.T) {
	t.Parallel()
	var ways []byHand
	for _, size := range []int{512, 1024, 2048, 4096} {
		for _, large := range []bool{false, true} {
			if !large || size > 512 {
				ways = append(ways, byHand{cipher: "aes-xts-plain64", sectorSize: size, large: large})
			}
		}
	}
	for _, truth := range ways {
		t.Run(fmt.Sprintf("%d %v", truth.sectorSize, truth.large), func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(8 * mib)
			b := truth.makeTrusted(t, disk)
			before, files := disk.Bytes(), len(b.Files.Names())
			for _, given := range ways {
				if given == truth || given.large {
					continue
				}
				_, err := b.Manager().Adopt(context.Background(), trustedAdopted(given), volume.AdoptOptions{Blob: blobFile})
				refused(t, err, fault.AdoptMismatch)
				if want := fmt.Sprintf("it fits with cipher aes-xts-plain64, sector size %d", truth.sectorSize); !strings.Contains(err.Error(), want) ||
					truth.large != strings.Contains(err.Error(), "iv_large_sectors") {
					t.Fatalf("given %v: %v", given, err)
				}
			}
			same(t, "the device", disk.Bytes(), before)
			if len(b.Files.Names()) != files {
				t.Fatal("a file was written")
			}
		})
	}
}

func TestAdoptRefusesATrustedKeyThatDoesNotBelong(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := byHand{cipher: "aes-xts-plain64", sectorSize: 4096}
	disk := crashtest.NewImage(16 * mib)
	b := h.makeTrusted(t, disk)
	_, other, err := b.Chip.NewTrusted(64)
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{"/other": hex.EncodeToString(other), "/odd": "no digits", "/short": "00ff"} {
		if err := b.Files.Create(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	line := h.table(t, h.trustedKey()).String()
	for name, c := range map[string]struct {
		o    volume.AdoptOptions
		code fault.Code
	}{
		"another key":                    {volume.AdoptOptions{Blob: "/other"}, fault.AdoptMismatch},
		"no blob":                        {volume.AdoptOptions{Blob: "/odd"}, fault.BlobDamaged},
		"a blob of nothing":              {volume.AdoptOptions{Blob: "/short"}, fault.AdoptMismatch},
		"another key size in the table":  {volume.AdoptOptions{Blob: blobFile, Table: strings.Replace(line, ":64:", ":32:", 1)}, fault.AdoptMismatch},
		"a cipher that is not permitted": {volume.AdoptOptions{Blob: blobFile, Cipher: "capi:tk(cbc(aes))-plain64"}, fault.CipherNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			before, files := disk.Bytes(), len(b.Files.Names())
			_, err := b.Manager().Adopt(ctx, trustedAdopted(h), c.o)
			refused(t, err, c.code)
			same(t, "the device", disk.Bytes(), before)
			if len(b.Files.Names()) != files {
				t.Fatal("a file was written")
			}
		})
	}
}

// CBC with plain IVs, as in the volumes of Toradex' layer: up to 2 TiB it is the same as
// plain64, which the header then says; beyond that it differs, and is refused. Its
// weakness is named, and a rotation removes it.
func TestCBCWithPlainIVsIsAdopted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const limit = 512 << 32
	h := byHand{cipher: "capi:cbc(aes)-plain", sectorSize: 512, keySize: 32}
	s := trustedAdopted(h)
	for size, fits := range map[int64]bool{16 * mib: true, limit: true, limit + 512: false} {
		disk := crashtest.NewImage(16 * mib)
		b := h.makeTrusted(t, sized{disk, size})
		before, files := disk.Bytes(), len(b.Files.Names())
		r, err := b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Cipher: h.cipher})
		same(t, "the device", disk.Bytes(), before)
		if !fits {
			refused(t, err, fault.AdoptMismatch)
			if !strings.Contains(err.Error(), `"aes-cbc-plain" repeats its IVs beyond 2 TiB`) || len(b.Files.Names()) != files {
				t.Errorf("%v; files %q", err, b.Files.Names())
			}
			// The part that the table names is smaller.
			r, err = b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Table: h.table(t, h.trustedKey()).String(), DryRun: true})
		}
		if must(t, r, err); !strings.Contains(strings.Join(r.Warnings, " "), "can be predicted") {
			t.Errorf("%d bytes: %q", size, r.Warnings)
		}
	}

	again := h.makeTrusted(t, crashtest.NewImage(16*mib))
	r, err := again.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile})
	must(t, r, err)
	b := h.makeTrusted(t, crashtest.NewImage(16*mib))
	r, err = b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile})
	must(t, r, err)
	better := s
	better.Cipher, better.KeySize = "aes-xts-plain64", 64
	rr, err := b.Manager().Rotate(ctx, better, volume.RotateOptions{})
	if must(t, rr.Result, err); len(rr.Warnings) > 0 {
		t.Errorf("%q", rr.Warnings)
	}
	b = powerCycle(b)
	hasItsData(t, b, better)

	// Auto does not stand for this cipher, and the better ciphers do not fit its data.
	for name, other := range map[string]spec.Volume{"auto": auto(s), "xts": better} {
		b := h.makeTrusted(t, crashtest.NewImage(16*mib))
		files := len(b.Files.Names())
		_, err := b.Manager().Adopt(ctx, other, volume.AdoptOptions{Blob: blobFile, Cipher: h.cipher})
		if err == nil || len(b.Files.Names()) != files {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
	guess := s
	guess.Cipher = "aes-cbc-essiv:sha256"
	_, err = h.makeTrusted(t, crashtest.NewImage(16*mib)).Manager().Adopt(ctx, guess, volume.AdoptOptions{Blob: blobFile})
	refused(t, err, fault.AdoptMismatch)
	if !strings.Contains(err.Error(), "it fits with cipher aes-cbc-plain64 (or -plain, which is the same below 2 TiB), sector size 512") {
		t.Error(err)
	}

	// No key is made for this cipher, except by a rotation that changes nothing else.
	rr, err = again.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	larger := s
	larger.SectorSize = 4096
	_, err = again.Manager().Rotate(ctx, larger, volume.RotateOptions{})
	refused(t, err, fault.CipherNotAllowed)
	made, image := trustedFrom(newSpec()), crashtest.NewImage(16*mib)
	made.Cipher, made.KeySize = keysource.CBC, 32
	before := image.Bytes()
	_, err = newBoard(image).Manager().Provision(ctx, made, volume.ProvisionOptions{})
	refused(t, err, fault.CipherNotAllowed)
	same(t, "not provisioned", image.Bytes(), before)
}
