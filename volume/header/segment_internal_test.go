// SPDX-License-Identifier: Apache-2.0

package header

import (
	"context"
	"strings"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume/spec"
)

// A crypt segment with integrity, or any other unknown member, is not one of ours: its
// data is elsewhere than the table would say.
func TestASegmentWithIntegrityIsRefused(t *testing.T) {
	t.Parallel()
	_, blob, err := caamtest.RandomChip().Create(context.Background(), caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	s := spec.Volume{Name: "data", Source: spec.SourceCAAM, Header: spec.HeaderOnDevice, HeaderSize: MiB, Cipher: "capi:tk(cbc(aes))-plain64", SectorSize: 4096}
	h, err := New(s, "11111111-2222-4333-8444-555555555555", Layout{DataOffset: 2 * MiB, DataSize: 8 * MiB}, Token{
		Source: spec.SourceCAAM, Phase: PhaseReady, Generation: 1, Blob: blob, Wrap: caam.CCM, KeySize: 32, State: caam.Closed,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Store(); err != nil {
		t.Fatal(err)
	}
	if _, err := Understand(h.LUKS, luks2.Copies{}, "/dev/vda"); err != nil {
		t.Fatalf("as it is: %v", err)
	}
	segment := h.LUKS.Metadata.Segments[segmentID]
	segment.Extra = luks2.Members{"integrity": []byte(`{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}`)}
	h.LUKS.Metadata.Segments[segmentID] = segment
	if _, err := Understand(h.LUKS, luks2.Copies{}, "/dev/vda"); fault.CodeOf(err) != fault.HeaderInvalid || !strings.Contains(err.Error(), `"integrity"`) {
		t.Errorf("%v (code %s)", err, fault.CodeOf(err))
	}
}
