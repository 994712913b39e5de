// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
)

// blobEnd is the end of the bytes that the hardware uses of a blob with a key of 32
// bytes.
const blobEnd = 20 + 32 + 48

func decodedBlob(t *testing.T, image []byte) []byte {
	t.Helper()
	blob, err := base64.StdEncoding.DecodeString(string(storedBlob(t, image)))
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// A driver's blob ends with whatever was in the kernel's memory. Neither a header nor a
// file gets any of it.
func TestNoRemnantOfKernelMemoryIsStored(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	zeros := make([]byte, 12)
	disk := crashtest.NewImage(16 * mib)
	provisioned(t, newSpec(), disk)
	if blob := decodedBlob(t, disk.Bytes()); !bytes.Equal(blob[blobEnd:], zeros) {
		t.Errorf("in the header: %x", blob[blobEnd:])
	}
	b := newBoard(crashtest.NewImage(mib))
	paths, err := b.Manager().CreateKeyFile(ctx, volume.KeyFileRequest{Name: "key", Dir: "/data/caam", Wrap: "ccm", Size: 32})
	if err != nil {
		t.Fatal(err)
	}
	file, err := b.Files.Read(paths[0], atomicfile.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(file) != 112 || !bytes.Equal(file[blobEnd:], zeros) {
		t.Errorf("in a file of %d bytes: %x", len(file), file[blobEnd:])
	}
}

// A file from caam-keygen is adopted without its remnants, and is recognised again.
func TestAdoptLeavesTheRemnantsInTheFile(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := byHand{cipher: plainTK, sectorSize: 512, wrap: caam.CCM}
	b, blob := h.make(t, crashtest.NewImage(16*mib))
	raw := bytes.Clone(blob)
	copy(raw[blobEnd:], "kernel heap.")
	const file = "/data/caam/remnant.bb"
	if err := b.Files.Create(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s := adoptedSpec(h)
	for again := range 2 {
		r, err := b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: file})
		if must(t, r, err); r.Already != (again == 1) || did(r, "blob converted from an older form") {
			t.Fatalf("%+v", r)
		}
	}
	header, err := b.Files.Read(s.Header, atomicfile.ReadOptions{MaxSize: 16 * mib})
	if err != nil {
		t.Fatal(err)
	}
	if got := decodedBlob(t, header); !bytes.Equal(got, blob) {
		t.Errorf("stored %q", got[blobEnd:])
	}
}
