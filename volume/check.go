// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"imxcrypt/luks2"
)

// Check is the LUKS2 digest by which a wrong key is told from a right one: one
// block of random bytes, written once through a mapping with the volume's own
// key and cipher. The digest holds its place and the hash of its plaintext,
// which tells nothing of the key, or of the 4064 random bytes.
//
// The block ends with a hash of what must not be swapped: UUID, label,
// generation, segments and recovery recipients. Only the holder of the key can make another block
// that fits, so a header whose segments were moved does not pass.
//
// A detached header has no check area; there Area is 0 bytes long and the
// filesystem's own identity is the check. While such a volume is rotated its
// superblock lies under one key only, so for that time each key has a derived
// check: nothing is written, but what the key makes of a block of the header's
// file is known by its hash, taken together with the binding.
type Check struct {
	Offset, Size int64 // bytes from the header's start
	Digest       [sha256.Size]byte
	Segments     []string
	// Derived: the block is whatever lies there, and the digest that of its
	// plaintext and the binding.
	Derived bool
}

// checkIVOffset is the sector number, in 512-byte units, that the check area's
// IVs begin at: the last that the 32 bits of `plain` can count, far from those of
// the data on all but a volume of 2 TiB. (There one data block shares the IV of
// a block of random bytes, which tells nothing.)
const checkIVOffset = uint64(1)<<32 - checkAreaSize/sectorBytes

type checkJSON struct {
	Offset string `json:"offset,omitempty"`
	Size   string `json:"size,omitempty"`
	Hash   string `json:"hash,omitempty"`
	Digest []byte `json:"digest,omitempty"`

	Derived bool `json:"derived,omitempty"`
}

// InHeader tells whether there is a check area at all.
func (c Check) InHeader() bool { return c.Size > 0 && !c.Derived }

// luks is the digest as it stands in the header.
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

// parseCheck reads a digest of type imxcrypt-check. headerArea is the size of
// the header area in bytes, which the check area must lie in.
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
	case c.Size != checkAreaSize || c.Offset < metadataSize || c.Offset%blockAlign != 0 || c.Offset > headerArea-c.Size:
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

// binding is what the check's plaintext is tied to.
type binding struct {
	UUID       string       `json:"uuid"`
	Label      string       `json:"label"`
	Generation int          `json:"generation"`
	Segment    boundSegment `json:"segment"`
	// Recipients of the recovery copy, so that nobody can add one of their own
	// that the next rotation would seal the new key to.
	Recipients []string `json:"recovery_recipients,omitempty"`
}

type boundSegment struct {
	Offset     int64  `json:"offset"`
	Size       int64  `json:"size"`
	IVTweak    uint64 `json:"iv_tweak"`
	Cipher     string `json:"encryption"`
	SectorSize int    `json:"sector_size"`
}

func (b binding) hash() [sha256.Size]byte {
	text, err := json.Marshal(b)
	if err != nil {
		// Strings and integers only; encoding/json cannot refuse them.
		panic(err)
	}
	return sha256.Sum256(append([]byte("imxcrypt-check-v1\x00"), text...))
}

// newCheckBlock makes the plaintext of a check area.
func newCheckBlock(random io.Reader, b binding) ([]byte, error) {
	block := make([]byte, checkAreaSize)
	if _, err := io.ReadFull(random, block[:checkAreaSize-sha256.Size]); err != nil {
		return nil, fmt.Errorf("random bytes for the check: %w", err)
	}
	h := b.hash()
	copy(block[checkAreaSize-sha256.Size:], h[:])
	return block, nil
}

// derive is the digest of a derived check.
func derive(block []byte, b binding) [sha256.Size]byte {
	h := b.hash()
	return sha256.Sum256(append(append([]byte("imxcrypt-derived-check-v1\x00"), block...), h[:]...))
}

// fits tells whether a decrypted block is the one that was written, and
// belongs to this header.
func (c Check) fits(block []byte, b binding) bool {
	if c.Derived {
		return derive(block, b) == c.Digest
	}
	sum := sha256.Sum256(block)
	h := b.hash()
	return sum == c.Digest && bytes.HasSuffix(block, h[:])
}
