// SPDX-License-Identifier: Apache-2.0

package header

import (
	"crypto/sha256"
	"testing"

	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume/spec"
)

// inPlaintext returns the header of a volume that is being encrypted or decrypted.
func inPlaintext(t *testing.T, decrypting bool) *Header {
	t.Helper()
	s := spec.Volume{Name: "data", Header: "/data.luks", HeaderSize: MiB, Cipher: "capi:tk(cbc(aes))-plain64", SectorSize: 4096}
	token := someToken(t)
	token.Generation = 1
	h, err := NewEncrypting(s, "0a4b3cf5-52f8-4fb4-8a0f-6d6f2a4a3c11", Layout{DataSize: 8 * MiB}, 0, token)
	if err != nil {
		t.Fatal(err)
	}
	h.Next.Check = Check{Offset: CheckOffset(1), Size: CheckAreaSize, Derived: true, Digest: [sha256.Size]byte{1}}
	if decrypting {
		h = h.EndRotation()
		h.BeginDecryption(0)
	}
	if err := h.Store(); err != nil {
		t.Fatal(err)
	}
	return h
}

// onTheDevice is like inPlaintext, with the header on the device.
func onTheDevice(t *testing.T, decrypting bool) *Header {
	t.Helper()
	s := spec.Volume{Name: "data", Header: spec.HeaderOnDevice, HeaderSize: MiB, Cipher: "capi:tk(cbc(aes))-plain64", SectorSize: 4096}
	token := someToken(t)
	token.Generation = 1
	h, err := NewEncrypting(s, "0a4b3cf5-52f8-4fb4-8a0f-6d6f2a4a3c11", Layout{DataOffset: 2 * MiB, DataSize: 8 * MiB}, 10*MiB, token)
	if err != nil {
		t.Fatal(err)
	}
	if decrypting {
		h = h.EndRotation()
		h.BeginDecryption(10 * MiB)
	}
	if err := h.Store(); err != nil {
		t.Fatal(err)
	}
	return h
}

// The bytes that the header replaces are found where they are kept, in both directions,
// and the check is bound to that place.
func TestWhereThePlainTextLiesIsUnderstood(t *testing.T) {
	t.Parallel()
	for _, decrypting := range []bool{false, true} {
		h := onTheDevice(t, decrypting)
		got, err := Understand(h.LUKS, luks2.Copies{}, "x")
		if err != nil {
			t.Fatal(err)
		}
		if got.Encrypting() == decrypting || got.Decrypting() != decrypting || got.moved() != 10*MiB {
			t.Fatalf("decrypting %v: %+v", decrypting, got)
		}
		bound := got.KeySide().Binding()
		if bound.Hash() != h.KeySide().Binding().Hash() || bound.Moved != 10*MiB {
			t.Fatalf("bound to %+v, not %+v", bound, h.KeySide().Binding())
		}
		disk := make([]byte, 12*MiB)
		copy(disk[MiB:], "the rest")
		copy(disk[11*MiB-4:], "kept")
		plain := got
		if decrypting {
			plain = got.Next
		}
		seen := make([]byte, 8)
		if _, err := plain.PlainView(&memory{b: disk}).ReadAt(seen, MiB-4); err != nil || string(seen) != "keptthe " {
			t.Fatalf("%q, %v", seen, err)
		}
	}
}

// A header on the device that contradicts itself is refused too.
func TestContradictoryPlaintextOnTheDeviceIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(segments map[string]luks2.Segment, first, rest, key *luks2.Segment){
		"the first bytes are more": func(_ map[string]luks2.Segment, first, _, _ *luks2.Segment) { first.Size += BlockAlign },
		"in the data":              func(_ map[string]luks2.Segment, first, _, _ *luks2.Segment) { first.Offset = 9 * MiB },
		"the rest elsewhere":       func(_ map[string]luks2.Segment, _, rest, _ *luks2.Segment) { rest.Offset += BlockAlign },
		"the rest is less":         func(_ map[string]luks2.Segment, _, rest, _ *luks2.Segment) { rest.Size -= BlockAlign },
		"the key's data in the header": func(_ map[string]luks2.Segment, _, _, key *luks2.Segment) {
			key.Offset = BlockAlign
		},
		"the first marked otherwise": func(_ map[string]luks2.Segment, first, _, key *luks2.Segment) { first.Flags = key.Flags },
		"the rest marked otherwise":  func(_ map[string]luks2.Segment, _, rest, key *luks2.Segment) { rest.Flags = key.Flags },
		"the key's marked otherwise": func(_ map[string]luks2.Segment, first, _, key *luks2.Segment) { key.Flags = first.Flags },
		"a fourth":                   func(segments map[string]luks2.Segment, _, rest, _ *luks2.Segment) { segments["3"] = *rest },
	} {
		for _, decrypting := range []bool{false, true} {
			h := onTheDevice(t, decrypting)
			segments := h.LUKS.Metadata.Segments
			ids := []string{segmentID, nextID, thirdID}
			if decrypting {
				ids = []string{nextID, thirdID, segmentID}
			}
			first, rest, key := segments[ids[0]], segments[ids[1]], segments[ids[2]]
			change(segments, &first, &rest, &key)
			segments[ids[0]], segments[ids[1]], segments[ids[2]] = first, rest, key
			if _, err := Understand(h.LUKS, luks2.Copies{}, "x"); fault.CodeOf(err) != fault.HeaderInvalid {
				t.Errorf("%s, decrypting %v: %v (code %s)", name, decrypting, err, fault.CodeOf(err))
			}
		}
	}
}

// The header written for a volume that is partly in plaintext is parsed with the same
// result, and its check is bound to which part that is.
func TestPlaintextIsUnderstood(t *testing.T) {
	t.Parallel()
	for _, decrypting := range []bool{false, true} {
		h := inPlaintext(t, decrypting)
		got, err := Understand(h.LUKS, luks2.Copies{}, "x")
		if err != nil {
			t.Fatal(err)
		}
		if got.Encrypting() == decrypting || got.Decrypting() != decrypting || !got.UnderRotation() || got.KeySide().Token.Generation != 1 {
			t.Fatalf("decrypting %v: %+v", decrypting, got)
		}
		if got.KeySide().Binding().Hash() != h.KeySide().Binding().Hash() {
			t.Fatalf("bound to %+v, not %+v", got.KeySide().Binding(), h.KeySide().Binding())
		}
		ordinary := got.KeySide().Binding()
		ordinary.Plaintext = ""
		if got.KeySide().Binding().Hash() == ordinary.Hash() {
			t.Fatal("the check does not tell an ordinary volume from one in plain text")
		}
	}
	encrypting, decrypting := inPlaintext(t, false).KeySide().Binding(), inPlaintext(t, true).KeySide().Binding()
	if encrypting.Hash() == decrypting.Hash() {
		t.Fatal("the check does not tell encrypting from decrypting")
	}
}

// A header whose segments, tokens and requirements contradict each other is refused.
func TestContradictoryPlaintextIsRefused(t *testing.T) {
	t.Parallel()
	segment := func(id string, change func(*luks2.Segment)) func(*luks2.Header) {
		return func(lh *luks2.Header) {
			g := lh.Metadata.Segments[id]
			change(&g)
			lh.Metadata.Segments[id] = g
		}
	}
	for name, c := range map[string]struct {
		decrypting bool
		change     func(*luks2.Header)
	}{
		"another size":             {false, segment("0", func(g *luks2.Segment) { g.Size -= BlockAlign })},
		"another place":            {false, segment("0", func(g *luks2.Segment) { g.Offset += BlockAlign })},
		"no fixed size":            {false, segment("0", func(g *luks2.Segment) { g.Size = luks2.SizeDynamic })},
		"both in plain text":       {false, segment("1", func(g *luks2.Segment) { g.Type = luks2.SegmentLinear })},
		"none in plain text":       {false, segment("0", func(g *luks2.Segment) { g.Type = luks2.SegmentCrypt })},
		"the new one not marked":   {false, segment("1", func(g *luks2.Segment) { g.Flags = nil })},
		"the plain one not marked": {true, segment("1", func(g *luks2.Segment) { g.Flags = nil })},
		"no check": {true, func(lh *luks2.Header) {
			lh.Metadata.Digests["0"] = luks2.Digest{Type: digestType, Keyslots: []string{}, Segments: []string{"0"}}
		}},
		"no rotation":    {false, func(lh *luks2.Header) { lh.Unrequire(RequirementRotate) }},
		"no requirement": {false, func(lh *luks2.Header) { lh.Unrequire(RequirementPlaintext) }},
		"no token":       {false, func(lh *luks2.Header) { clear(lh.Metadata.Tokens) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := inPlaintext(t, c.decrypting)
			c.change(h.LUKS)
			if _, err := Understand(h.LUKS, luks2.Copies{}, "x"); fault.CodeOf(err) != fault.HeaderInvalid {
				t.Fatalf("%v (code %s)", err, fault.CodeOf(err))
			}
		})
	}
}
