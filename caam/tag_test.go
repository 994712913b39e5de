// SPDX-License-Identifier: Apache-2.0

package caam_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
)

// The table of sizes, as measured with NXP's own program.
func TestSizes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ red, ecb, ccm, blob int }{
		{16, 36, 48, 96}, {24, 52, 56, 104}, {32, 52, 64, 112}, {64, 84, 96, 144},
	} {
		if got := caam.BlackKeySize(caam.ECB, c.red); got != c.ecb {
			t.Errorf("ecb black key of %d: %d, want %d", c.red, got, c.ecb)
		}
		if got := caam.BlackKeySize(caam.CCM, c.red); got != c.ccm {
			t.Errorf("ccm black key of %d: %d, want %d", c.red, got, c.ccm)
		}
		if got := caam.BlobSize(c.red); got != c.blob {
			t.Errorf("blob of %d: %d, want %d", c.red, got, c.blob)
		}
	}
	if caam.MaxBlackKeySize != 96 || caam.MaxBlobSize != 144 {
		t.Errorf("capacities %d and %d", caam.MaxBlackKeySize, caam.MaxBlobSize)
	}
}

// object returns a tagged object of the given header words, followed by n bytes.
func object(t *testing.T, header string, n int) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(header, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return append(data, bytes.Repeat([]byte{0xc5}, n)...)
}

func TestInspect(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		header string
		rest   int
		want   caam.Info
	}{
		{"ecb blob", "4f676154 00000000 01000000 20000000 5c000000", 92, caam.Info{Form: caam.FormBlob, Wrap: caam.ECB, RedKeyLen: 32, Size: 112}},
		{"ccm blob", "4f676154 00000000 09000000 10000000 4c000000", 76, caam.Info{Form: caam.FormBlob, Wrap: caam.CCM, RedKeyLen: 16, Size: 96}},
		{"greatest blob", "4f676154 00000000 09000000 40000000 7c000000", 124, caam.Info{Form: caam.FormBlob, Wrap: caam.CCM, RedKeyLen: 64, Size: 144}},
		{"ecb key", "4f676154 00000000 01000000 18000000 20000000", 32, caam.Info{Form: caam.FormBlackKey, Wrap: caam.ECB, RedKeyLen: 24, Size: 52}},
		{"ccm key", "4f676154 00000000 09000000 20000000 2c000000", 44, caam.Info{Form: caam.FormBlackKey, Wrap: caam.CCM, RedKeyLen: 32, Size: 64}},
		{"ecb key of 2020", "4f676154 00000000 01000000 10000000", 16, caam.Info{Form: caam.FormOldBlackKey, Wrap: caam.ECB, RedKeyLen: 16, Size: 32}},
		{"ccm key of 2020", "4f676154 00000000 09000000 2c000000", 44, caam.Info{Form: caam.FormOldBlackKey, Wrap: caam.CCM, RedKeyLen: 32, Size: 60}},
		{"ecb blob of 2020", "01000000", 64, caam.Info{Form: caam.FormOldBlob, Wrap: caam.ECB, RedKeyLen: 16, Size: 68, Convertible: true}},
		{"long ecb blob of 2020", "01000000", 80, caam.Info{Form: caam.FormOldBlob, Wrap: caam.ECB, RedKeyLen: 32, Size: 84, Convertible: true}},
		{"ccm blob of 2020", "09000000", 76, caam.Info{Form: caam.FormOldBlob, Wrap: caam.CCM, RedKeyLen: 16, Size: 80}},
		{"hex blob", "3a6865783a", 80, caam.Info{Form: caam.FormHexBlob, Wrap: caam.ECB, RedKeyLen: 32, Size: 85, Convertible: true}},
	} {
		got, err := caam.Inspect(object(t, c.header, c.rest))
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestInspectNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header string
		rest   int
		says   string
	}{
		{"", 0, "empty"},
		{"4f67", 0, "too few"},
		{"4f676154 00000000", 0, "header"},
		{"54616f67 00000000 01000000 20000000 5c000000", 92, "neither"},
		{"4f676154 01000000 01000000 20000000 5c000000", 92, "version 1"},
		{"4f676154 00000000 00000000 20000000 5c000000", 92, "type 0x0"}, // red
		{"4f676154 00000000 03000000 20000000 5c000000", 92, "type 0x3"}, // the blob bit, which no driver sets
		{"4f676154 00000000 05000000 20000000 5c000000", 92, "type 0x5"}, // TDKEK
		{"4f676154 00000000 0d000000 20000000 5c000000", 92, "type 0xd"},
		{"4f676154 00000000 01000100 20000000 5c000000", 92, "type 0x10001"},
		{"4f676154 00000000 01000000 0f000000 5c000000", 92, "key of 15"},
		{"4f676154 00000000 01000000 41000000 5c000000", 92, "key of 65"},
		{"4f676154 00000000 01000000 20000000 5c000000", 91, "cut short"},
		{"4f676154 00000000 01000000 20000000 5c000000", 93, "grown"},
		{"4f676154 00000000 01000000 20000000 ffffffff", 92, "cut short"},
		{"4f676154 00000000 01000000 20000000 5b000000", 91, "a blob 112"},
		{"4f676154 00000000 09000000 20000000 20000000", 32, "a ccm black key has 64"}, // an ecb key that says ccm
		{"3a6865783a", 79, "want 64, 72 or 80"},
		{"01000000", 65, "neither"},
		{"504b0304", 108, "neither"},
	} {
		_, err := caam.Inspect(object(t, c.header, c.rest))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s+%d: got %v, want it to say %q", c.header, c.rest, err, c.says)
		}
		if err != nil && fault.CodeOf(err) != fault.BlobDamaged {
			t.Errorf("%s+%d: code %s", c.header, c.rest, fault.CodeOf(err))
		}
	}
}

func TestParseBlobTakesNothingButABlob(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header, says string
		rest         int
	}{
		{"4f676154 00000000 09000000 20000000 2c000000", "black key", 44},
		{"01000000", "converted", 64},
		{"3a6865783a", "converted", 64},
	} {
		_, err := caam.ParseBlob(object(t, c.header, c.rest))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want it to say %q", c.header, err, c.says)
		}
	}
	data := object(t, "4f676154 00000000 09000000 20000000 5c000000", 92)
	blob, err := caam.ParseBlob(data)
	want := bytes.Clone(data)
	clear(want[20+32+48:]) // never read by the hardware, and not to be stored
	if err != nil || !bytes.Equal(blob, want) {
		t.Fatalf("%x, %v", blob, err)
	}
	data = bytes.Clone(want)
	if blob, err = caam.ParseBlob(data); err != nil {
		t.Fatal(err)
	}
	data[30] ^= 1
	if bytes.Equal(blob, data) {
		t.Error("the blob shares memory with what it was parsed from")
	}
}

func TestBlackKeyTakesNothingButABlackKey(t *testing.T) {
	t.Parallel()
	for _, data := range [][]byte{
		object(t, "4f676154 00000000 09000000 20000000 5c000000", 92), // a blob
		object(t, "4f676154 00000000 01000000 10000000", 16),          // the old tag
		object(t, "4f676154 00000000 09000000 20000000 20000000", 32), // ecb's size under ccm
		{0},
	} {
		mem, err := secret.New(len(data))
		if err != nil {
			t.Fatal(err)
		}
		copy(mem.Bytes(), data)
		_, err = caam.NewBlackKey(mem)
		wantKind(t, err, caam.Damaged)
		if mem.Bytes() != nil {
			t.Error("what was no key is still in memory")
		}
	}
}

func TestConvert(t *testing.T) {
	t.Parallel()
	const magic = "4f676154 00000000 "
	for _, c := range []struct {
		header string
		rest   int
		want   string
	}{
		{"01000000", 64, magic + "01000000 10000000 4c000000"},
		{"01000000", 80, magic + "01000000 20000000 5c000000"},
		{"3a6865783a", 72, magic + "01000000 18000000 54000000"},
		{"3a6865783a", 80, magic + "01000000 20000000 5c000000"},
	} {
		got, err := caam.Convert(object(t, c.header, c.rest))
		if err != nil {
			t.Errorf("%s+%d: %v", c.header, c.rest, err)
			continue
		}
		if want := append(object(t, c.want, c.rest), make([]byte, 12)...); !bytes.Equal(got, want) {
			t.Errorf("%s+%d:\n got %x\nwant %x", c.header, c.rest, got, want)
		}
		if again, err := caam.Convert(got); err != nil || !bytes.Equal(again, got) {
			t.Errorf("%s+%d: a current blob became %x, %v", c.header, c.rest, again, err)
		}
	}
}

func TestConvertRefusesWhatHoldsNoSealedKey(t *testing.T) {
	t.Parallel()
	for _, data := range [][]byte{
		object(t, "4f676154 00000000 09000000 20000000 2c000000", 44),
		object(t, "4f676154 00000000 01000000 10000000", 16),
		object(t, "09000000", 76),
	} {
		_, err := caam.Convert(data)
		wantKind(t, err, caam.BadArgument)
	}
	_, err := caam.Convert([]byte("no key"))
	wantKind(t, err, caam.Damaged)
}

// An older driver seals in the same way as a current one: the converted form of its bytes
// opens.
func TestConvertedBlobOpens(t *testing.T) {
	t.Parallel()
	chip := caamtest.RandomChip()
	key, blob, err := chip.Create(context.Background(), caam.ECB, 32)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	sealed := blob[20 : len(blob)-12]
	for _, header := range []string{"\x01\x00\x00\x00", ":hex:"} {
		converted, err := caam.Convert(append([]byte(header), sealed...))
		if err != nil {
			t.Fatal(err)
		}
		opened, err := chip.Import(context.Background(), converted)
		if err != nil {
			t.Fatalf("%q: %v", header, err)
		}
		if !bytes.Equal(opened.Bytes(), key.Bytes()) {
			t.Errorf("%q: opened to another key", header)
		}
		opened.Wipe()
	}
}

func FuzzInspect(f *testing.F) {
	for _, seed := range [][]byte{
		nil,
		[]byte("OgaT"),
		[]byte(":hex:"),
		append([]byte("OgaT\x00\x00\x00\x00\x09\x00\x00\x00\x20\x00\x00\x00\x5c\x00\x00\x00"), make([]byte, 92)...),
		append([]byte("OgaT\x00\x00\x00\x00\x01\x00\x00\x00\x10\x00\x00\x00"), make([]byte, 16)...),
		append([]byte("\x01\x00\x00\x00"), make([]byte, 64)...),
		append([]byte(":hex:"), make([]byte, 80)...),
		append([]byte("OgaT\x00\x00\x00\x00\x01\x00\x00\x00\x20\x00\x00\x00\xff\xff\xff\xff"), make([]byte, 92)...),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := caam.Inspect(data)
		blob, notBlob := caam.ParseBlob(data)
		converted, notConverted := caam.Convert(data)
		if err != nil {
			if notBlob == nil || notConverted == nil {
				t.Fatalf("%x is damaged (%v), and yet a blob", data, err)
			}
			return
		}
		if info.Size != len(data) || info.RedKeyLen < 16 || info.RedKeyLen > 64 || info.Wrap != caam.ECB && info.Wrap != caam.CCM {
			t.Fatalf("%x: %+v", data, info)
		}
		if (notBlob == nil) != (info.Form == caam.FormBlob) {
			t.Fatalf("%+v, but parsed with %v", info, notBlob)
		}
		if notBlob == nil && (len(blob) > caam.MaxBlobSize || !bytes.Equal(blob, data) || !bytes.Equal(converted, data)) {
			t.Fatalf("blob of %d bytes, converted to %x", len(blob), converted)
		}
		if notConverted == nil {
			back, err := caam.Inspect(converted)
			if err != nil || back.Form != caam.FormBlob || back.RedKeyLen != info.RedKeyLen || len(converted) > caam.MaxBlobSize {
				t.Fatalf("%+v converted to %+v, %v", info, back, err)
			}
		}
		if (notConverted == nil) != (info.Convertible || info.Form == caam.FormBlob) {
			t.Fatalf("%+v, but converted with %v", info, notConverted)
		}
	})
}
