// SPDX-License-Identifier: Apache-2.0

package header

import (
	"errors"
	"fmt"
	"slices"

	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/spec"
)

// A volume that is being encrypted or decrypted in place is a volume under rotation of
// which one side is not ciphertext. That side's segment is linear, and it has neither
// token nor digest. Its filesystem and generation are taken from the other side.

// If the header is on the device, it is where the first bytes of the filesystem were, or
// will be. The plaintext side then has two segments: those bytes, where they are kept,
// and the rest, in its place. thirdID is the key's segment or, in a decryption, the
// second of these two.
const thirdID = "2"

// RequirementPlaintext is the mandatory requirement of a header while a part of the data
// is in plaintext.
const RequirementPlaintext = "imxcrypt-plaintext-v1"

// The sides that can be in plaintext. The check of the other side is bound to this:
// without the key no one can make a volume's header say that its data is plaintext, or is
// to become plaintext.
const (
	plaintextBefore = "before"
	plaintextAfter  = "after"
)

// RequireProvedKey refuses a header whose first key was never proved: nothing is
// encrypted with it.
func (h *Header) RequireProvedKey() error {
	if h.Encrypting() && !h.Next.Check.Exists() {
		return fault.Newf(fault.EncryptionStarted, "encrypting was interrupted before the key was proved; the device is in plain text, as it was")
	}
	return nil
}

// NewEncrypting makes the header of a plaintext device that is to be encrypted with the
// key in t. It is not written anywhere yet. If the header goes onto the device, moved is
// where the bytes that it replaces are kept.
func NewEncrypting(s spec.Volume, uuid string, l Layout, moved int64, t Token) (*Header, error) {
	t.Phase = PhaseRotating
	k, err := New(s, uuid, l, t)
	if err != nil {
		return nil, err
	}
	k.Segment.Flags = []string{flagNext}
	h := plainBefore(k, moved)
	return h, h.Store()
}

// plainBefore returns the plaintext side that is to become the key's.
func plainBefore(k *Header, moved int64) *Header {
	k.plaintext, k.boundMoved = plaintextBefore, moved
	h := plainBeside(k, k.Token.Generation-1)
	h.Token.Phase, h.Next = PhaseReady, k
	return h
}

// putPlain stores the segments of a plaintext side.
func (h *Header) putPlain(id string) {
	segments := h.LUKS.Metadata.Segments
	if h.Moved == 0 {
		segments[id] = h.Segment
		return
	}
	area, restID := h.LUKS.Area(), nextID
	if id == nextID {
		restID = thirdID
	}
	first, rest := h.Segment, h.Segment
	first.Offset, first.Size = h.Moved, area
	rest.Offset, rest.Size = area, h.Segment.Size-area
	segments[id], segments[restID] = first, rest
}

// BeginDecryption adds the plaintext side to the header, in memory. If the header is on
// the device, moved is where the bytes go that belong in its place. This changes the
// digest of the check.
func (h *Header) BeginDecryption(moved int64) {
	h.plaintext, h.boundMoved = plaintextAfter, moved
	h.Next = plainBeside(h, h.Token.Generation+1)
	h.Next.Token.Phase, h.Next.Segment.Flags = PhaseRotating, []string{flagNext}
}

// plainBeside returns the plaintext side for a key's side.
func plainBeside(k *Header, generation int) *Header {
	h := &Header{
		LUKS: k.LUKS, Copies: k.Copies, Token: Token{Generation: generation, Filesystem: k.Token.Filesystem},
		Segment: luks2.Segment{Type: luks2.SegmentLinear, Offset: k.Segment.Offset, Size: k.Segment.Size},
		Moved:   k.boundMoved,
	}
	if h.Moved > 0 {
		h.Segment.Offset = 0
	}
	return h
}

// moved returns Moved of the plaintext side; 0 if there is none.
func (h *Header) moved() int64 {
	if h.Decrypting() {
		return h.Next.Moved
	}
	return h.Moved
}

// understandPlain parses the key's token, digest and segment, and the segment of the
// plaintext side.
func understandPlain(lh *luks2.Header) (*Header, error) {
	if len(lh.Metadata.Segments) > 2 {
		return understandMoved(lh)
	}
	keyID, plainID, flags := nextID, segmentID, []string(nil)
	if lh.Metadata.Segments[nextID].Type == luks2.SegmentLinear {
		keyID, plainID, flags = segmentID, nextID, []string{flagNext}
	}
	k, err := understandKey(lh, keyID)
	if err != nil {
		return nil, err
	}
	g := lh.Metadata.Segments[plainID]
	if err := knownMembers(g); err != nil {
		return nil, err
	}
	switch {
	case g.Type != luks2.SegmentLinear || g.Offset != k.Segment.Offset || g.Size != k.Segment.Size:
		return nil, fmt.Errorf("plain text of %d bytes at %d beside a key's of %d at %d", g.Size, g.Offset, k.Segment.Size, k.Segment.Offset)
	case !slices.Equal(g.Flags, flags) || keyID == nextID && !slices.Equal(k.Segment.Flags, []string{flagNext}):
		return nil, errors.New("the new segment is not marked " + flagNext)
	case k.Check.InHeader() || keyID == segmentID && !k.Check.Exists():
		return nil, errors.New("plain text without a derived check of the key")
	}
	if keyID == segmentID {
		k.BeginDecryption(0)
		return k, nil
	}
	return plainBefore(k, 0), nil
}

// understandMoved is understandPlain for a header on the device.
func understandMoved(lh *luks2.Header) (*Header, error) {
	keyID, firstID, restID := thirdID, segmentID, nextID
	keyFlags, flags := []string{flagNext}, []string(nil)
	decrypts := lh.Metadata.Segments[segmentID].Type != luks2.SegmentLinear
	if decrypts {
		keyID, firstID, restID = segmentID, nextID, thirdID
		keyFlags, flags = flags, keyFlags
	}
	k, err := understandKey(lh, keyID)
	if err != nil {
		return nil, err
	}
	area := lh.Area()
	first, rest := lh.Metadata.Segments[firstID], lh.Metadata.Segments[restID]
	if err := errors.Join(knownMembers(first), knownMembers(rest)); err != nil {
		return nil, err
	}
	switch {
	case first.Type != luks2.SegmentLinear || rest.Type != luks2.SegmentLinear ||
		!slices.Equal(first.Flags, flags) || !slices.Equal(rest.Flags, flags) || first.Size != area || rest.Offset != area || rest.Size != k.Segment.Size-area:
		return nil, fmt.Errorf("plain text of %d bytes at %d and %d at %d beside a key's of %d", first.Size, first.Offset, rest.Size, rest.Offset, k.Segment.Size)
	case first.Offset < k.Segment.Offset+k.Segment.Size:
		return nil, fmt.Errorf("the first bytes of the plain text at %d, where the key's data has its place", first.Offset)
	case k.Segment.Offset < area:
		return nil, fmt.Errorf("the data at %d, within the header of %d bytes", k.Segment.Offset, area)
	case !slices.Equal(k.Segment.Flags, keyFlags):
		return nil, errors.New("the new segment is not marked " + flagNext)
	case !k.Check.InHeader():
		return nil, errors.New("a header on the device without a check of its key")
	}
	if decrypts {
		k.BeginDecryption(first.Offset)
		return k, nil
	}
	return plainBefore(k, first.Offset), nil
}

// sector returns the crypt sector of a side in bytes.
func (h *Header) sector() int {
	if h.InPlaintext() {
		return reencrypt.SectorSize
	}
	return h.Segment.SectorSize
}
