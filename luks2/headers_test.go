// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

// realHeaders are cryptsetup's, made by testdata/make-headers.
var realHeaders = []struct {
	name     string
	size     int64 // of the device; the file holds its first bytes
	detached bool
	copySize int64
	label    string
	keyslots int
	tokens   int
	segments int
	requires []string
	sector   int // of segment 0; 0 if it is linear
}{
	{name: "argon2id", keyslots: 1, segments: 1, sector: 4096},
	{name: "sector-512-labelled", label: "my label", keyslots: 1, segments: 1, sector: 512},
	{name: "sector-2048-cbc", keyslots: 1, segments: 1, sector: 2048},
	{name: "keyslots-and-tokens", keyslots: 3, tokens: 2, segments: 1, sector: 4096},
	{name: "metadata-64k", copySize: 64 << 10, keyslots: 1, segments: 1, sector: 4096},
	{name: "metadata-4m", copySize: 4 << 20, keyslots: 1, segments: 1, sector: 4096},
	{name: "detached", size: 16 << 20, detached: true, keyslots: 1, segments: 1, sector: 4096},
	{name: "converted-from-luks1", keyslots: 1, segments: 1, sector: 512},
	{name: "reencrypt-checksum", keyslots: 3, segments: 3, requires: []string{"online-reencrypt-v2"}, sector: 4096},
	{name: "reencrypt-journal", keyslots: 3, segments: 3, requires: []string{"online-reencrypt-v2"}, sector: 4096},
	{name: "reencrypt-none", keyslots: 3, segments: 3, requires: []string{"online-reencrypt-v2"}, sector: 4096},
	{name: "encrypt-datashift", keyslots: 2, segments: 5, requires: []string{"online-reencrypt-v2"}},
	{name: "encrypt-detached", size: 16 << 20, detached: true, keyslots: 2, segments: 3, requires: []string{"online-reencrypt-v2"}},
	{name: "decrypt-detached", size: 16 << 20, detached: true, keyslots: 2, segments: 3, requires: []string{"online-reencrypt-v2"}, sector: 4096},
}

// realHeader returns the start of such a device.
func realHeader(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "cryptsetup-2.6.1", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestHeadersOfCryptsetupAreValid(t *testing.T) {
	t.Parallel()
	for _, tc := range realHeaders {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.size == 0 {
				tc.size = 64 << 20
			}
			if tc.copySize == 0 {
				tc.copySize = DefaultCopySize
			}
			data := tc.size
			if tc.detached {
				data = 64 << 20
			}
			m := bytes.NewReader(realHeader(t, tc.name))
			report, err := Check(m, tc.size, data)
			if err != nil {
				t.Fatal(err)
			}
			h := report.Header
			if len(report.Problems) != 0 || !report.Copies.Intact() {
				t.Errorf("problems %q, copies %+v", report.Problems, report.Copies)
			}
			if h.CopySize() != tc.copySize || h.Detached() != tc.detached || h.Label != tc.label {
				t.Errorf("copies of %d bytes, detached %v, label %q", h.CopySize(), h.Detached(), h.Label)
			}
			if k, n, s := len(h.Metadata.Keyslots), len(h.Metadata.Tokens), len(h.Metadata.Segments); k != tc.keyslots || n != tc.tokens || s != tc.segments {
				t.Errorf("%d keyslots, %d tokens, %d segments", k, n, s)
			}
			if got := h.Metadata.Segments["0"].SectorSize; got != tc.sector {
				t.Errorf("sector size %d", got)
			}
			if !slices.Equal(h.Metadata.Config.Mandatory, tc.requires) {
				t.Errorf("requirements %q", h.Metadata.Config.Mandatory)
			}
			var unknown *RequirementError
			if err := h.CheckRequirements("imxcrypt-v1"); (len(tc.requires) > 0) != errors.As(err, &unknown) {
				t.Errorf("requirements: %v", err)
			}
			rewritten(t, h)
		})
	}
}

// rewritten requires that a header keeps its content when it is rewritten, in a form that
// does not change any more.
func rewritten(t testing.TB, h *Header) {
	t.Helper()
	text, err := h.Metadata.encode(h.copySize - binarySize)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	area := make([]byte, h.copySize-binarySize)
	if copy(area, text) == len(area) {
		return // fills its area to the last byte in another spelling
	}
	md, err := decodeMetadata(area, place{size: 1 << 62, kind: anywhere, data: -1})
	if err != nil {
		t.Fatalf("read again: %v", err)
	}
	if !reflect.DeepEqual(*md, h.Metadata) {
		t.Fatalf("content changed:\n%+v\n%+v", h.Metadata, *md)
	}
	again, err := md.encode(h.copySize - binarySize)
	if err != nil || !bytes.Equal(again, text) {
		t.Fatalf("the text is not stable: %v\n%s\n%s", err, text, again)
	}
}

func TestALUKS1HeaderIsNamed(t *testing.T) {
	t.Parallel()
	_, _, err := Read(bytes.NewReader(realHeader(t, "luks1")), 4096)
	var v *VersionError
	if !errors.As(err, &v) || v.Version != 1 {
		t.Errorf("got %v", err)
	}
}

// TestForeignMembersAreKept checks that unknown members survive a rewrite.
func TestForeignMembersAreKept(t *testing.T) {
	t.Parallel()
	data := realHeader(t, "keyslots-and-tokens")
	m := newSparse(64 << 20)
	copy(m.data, data)
	h, _, err := Read(m, m.Size())
	if err != nil {
		t.Fatal(err)
	}
	before := h.Metadata.Clone()
	if err := h.Write(m); err != nil {
		t.Fatal(err)
	}
	after, copies, err := Read(m, m.Size())
	if err != nil || !copies.Intact() {
		t.Fatalf("%v, %+v", err, copies)
	}
	if !reflect.DeepEqual(before, after.Metadata) {
		t.Error("content changed")
	}
	want := `{"list":[1,-2.5e3,true,null,"ä/"]}`
	if got := string(after.Metadata.Tokens["1"].Extra["nested"]); got != want {
		t.Errorf("nested member: %s, want %s", got, want)
	}
}
