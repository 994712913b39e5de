// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"imxcrypt/luks2"
)

// Check is the LUKS2 digest that distinguishes a wrong key from the right one: one block
// of random bytes, written once through a mapping with the volume's own key and cipher.
// The digest holds the block's place and the hash of its plaintext, which reveals nothing
// about the key or the 4064 random bytes.
//
// The block ends with a hash of what must not be swapped: UUID, label, generation,
// segments and recovery recipients. Only the holder of the key can make another block
// that fits, so a header whose segments were moved does not pass.
//
// A detached header has a derived check. Nothing is written through the key; instead the
// digest is a hash of what the key makes of a block of zeros in the header's file, taken
// together with the binding. Zeros are used because anyone who knows some plaintext of
// another volume knows what that volume's key makes of blocks that they can choose, but
// not what it makes of zeros. This check says which key belongs to the header. That the
// device belongs to it is shown by the filesystem, which must be there too, unless a
// rotation is under way: then the superblock is under one of two keys.
//
// Detached headers of earlier versions have no check, and Size is 0: there is only the
// recorded identity of the filesystem (see bind in package volume).
type Check struct {
	Offset, Size int64 // bytes from the header's start
	Digest       [sha256.Size]byte
	Segments     []string
	// Derived means that the block is zeros, and the digest is that of what the key
	// decrypts them to, and of the binding.
	Derived bool
}

// CheckIVOffset is the sector number, in 512-byte units, at which the check area's IVs
// begin: the last that the 32 bits of `plain` can count, far from the IVs of the data on
// all volumes except one of 2 TiB. (There one data block shares the IV of a block of
// random bytes, which reveals nothing.)
const CheckIVOffset = uint64(1)<<32 - CheckAreaSize/SectorBytes

type checkJSON struct {
	Offset string `json:"offset,omitempty"`
	Size   string `json:"size,omitempty"`
	Hash   string `json:"hash,omitempty"`
	Digest []byte `json:"digest,omitempty"`

	Derived bool `json:"derived,omitempty"`
}

// Exists reports whether there is a check of either kind.
func (c Check) Exists() bool { return c.Size > 0 }

// InHeader reports whether there is a check area.
func (c Check) InHeader() bool { return c.Size > 0 && !c.Derived }

// luks returns the digest as it is stored in the header.
func (c Check) luks() (luks2.Digest, error) {
	var j checkJSON
	if c.Size > 0 {
		j.Derived = c.Derived
		j.Offset, j.Size = strconv.FormatInt(c.Offset, 10), strconv.FormatInt(c.Size, 10)
		j.Hash, j.Digest = "sha256", c.Digest[:]
	}
	out := luks2.Digest{Type: digestType, Keyslots: []string{}, Segments: c.Segments}
	return out, out.Extra.Set(j)
}

// parseCheck reads a digest of type imxcrypt-check. headerArea is the size of the header
// area in bytes, which must contain the check area.
func parseCheck(raw luks2.Digest, headerArea int64) (Check, error) {
	var j checkJSON
	if err := raw.Extra.DecodeStrict(&j); err != nil {
		return Check{}, fmt.Errorf("digest: %w", err)
	}
	if raw.Type != digestType || len(raw.Keyslots) != 0 || len(raw.Segments) != 1 {
		return Check{}, fmt.Errorf("digest: not of type %s for one segment", digestType)
	}
	c := Check{Segments: raw.Segments, Derived: j.Derived}
	if j.Offset == "" && j.Size == "" && j.Hash == "" && j.Digest == nil && !j.Derived {
		return c, nil
	}
	var err error
	if c.Offset, err = parseDecimal(j.Offset); err != nil {
		return Check{}, fmt.Errorf("digest: offset: %w", err)
	}
	if c.Size, err = parseDecimal(j.Size); err != nil {
		return Check{}, fmt.Errorf("digest: size: %w", err)
	}
	switch {
	case c.Size != CheckAreaSize || c.Offset < MetadataSize || c.Offset%BlockAlign != 0 || c.Offset > headerArea-c.Size:
		return Check{}, fmt.Errorf("digest: area of %d bytes at %d is not in the keyslots area", c.Size, c.Offset)
	case j.Hash != "sha256" || len(j.Digest) != sha256.Size:
		return Check{}, fmt.Errorf("digest: hash %q of %d bytes", j.Hash, len(j.Digest))
	}
	copy(c.Digest[:], j.Digest)
	return c, nil
}

func parseDecimal(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%q is not a decimal number", s)
	}
	return n, nil
}

// Binding is what the check's plaintext is tied to.
type Binding struct {
	UUID       string       `json:"uuid"`
	Label      string       `json:"label"`
	Generation int          `json:"generation"`
	Segment    boundSegment `json:"segment"`
	// Recipients of the recovery copy, so that no one can add one of their own, to which
	// the next rotation would seal the new key.
	Recipients []string `json:"recovery_recipients,omitempty"`
	// Plaintext says which side of the data is in plaintext: the one before this key, or
	// the one after it.
	Plaintext string `json:"plaintext,omitempty"`
	// Moved is where the first bytes of that side are kept.
	Moved int64 `json:"moved,omitempty"`
}

type boundSegment struct {
	Offset     int64  `json:"offset"`
	Size       int64  `json:"size"`
	IVTweak    uint64 `json:"iv_tweak"`
	Cipher     string `json:"encryption"`
	SectorSize int    `json:"sector_size"`
}

// Hash returns what the check area holds of the binding.
func (b Binding) Hash() [sha256.Size]byte {
	text, err := json.Marshal(b)
	if err != nil {
		// There are only strings and integers; encoding/json cannot refuse them.
		panic(err)
	}
	return sha256.Sum256(append([]byte("imxcrypt-check-v1\x00"), text...))
}

// NewCheckBlock makes the plaintext of a check area.
func NewCheckBlock(random io.Reader, b Binding) ([]byte, error) {
	block := make([]byte, CheckAreaSize)
	if _, err := io.ReadFull(random, block[:CheckAreaSize-sha256.Size]); err != nil {
		return nil, fmt.Errorf("random bytes for the check: %w", err)
	}
	h := b.Hash()
	copy(block[CheckAreaSize-sha256.Size:], h[:])
	return block, nil
}

// Derive returns the digest of a derived check.
func Derive(block []byte, b Binding) [sha256.Size]byte {
	h := b.Hash()
	return sha256.Sum256(append(append([]byte("imxcrypt-derived-check-v1\x00"), block...), h[:]...))
}

// Fits reports whether a decrypted block is the one that was written, and belongs to this
// header.
func (c Check) Fits(block []byte, b Binding) bool {
	if c.Derived {
		return Derive(block, b) == c.Digest
	}
	sum := sha256.Sum256(block)
	h := b.Hash()
	return sum == c.Digest && bytes.HasSuffix(block, h[:])
}
