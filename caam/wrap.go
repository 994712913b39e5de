// SPDX-License-Identifier: Apache-2.0

package caam

import "fmt"

// Wrap says how a black key is encrypted under the chip's per-power-cycle key.
type Wrap string

const (
	// ECB has no integrity check: a black key of an earlier power cycle is silently
	// used as a wrong key.
	ECB Wrap = "ecb"
	// CCM carries a MAC: a stale black key makes every request fail.
	CCM Wrap = "ccm"
)

// ParseWrap parses a wrap as in the configuration, tokens and the command line. The error
// lists the valid values.
func ParseWrap(s string) (Wrap, error) {
	switch w := Wrap(s); w {
	case ECB, CCM:
		return w, nil
	}
	return "", fmt.Errorf("wrap %q: want ecb or ccm", s)
}

// The driver's limits for a red key in bytes (MIN_KEY_SIZE, MAX_KEY_SIZE of
// caamkeyblob.h).
const (
	minRedKey = 16
	maxRedKey = 64
)

// IsAESKeySize reports whether tk(cbc(aes)) takes a red key of n bytes. The driver also
// makes others, which no table can use.
func IsAESKeySize(n int) bool { return n == 16 || n == 24 || n == 32 }

// BlackKeySize returns the exact size in bytes of a tagged black key around a red key of
// n bytes: ECB pads to the AES block; CCM pads to 8 and adds a nonce and a MAC of 6 bytes
// each.
func BlackKeySize(w Wrap, n int) int {
	if w == CCM {
		return tagSize + roundUp(n, 8) + 12
	}
	return tagSize + roundUp(n, 16)
}

// BlobSize returns the exact size in bytes of a tagged blob around a red key of n bytes.
// The driver sizes it for a CCM key whatever the wrap, so the hardware never reads the
// last 12 bytes, nor the padding of the key.
func BlobSize(n int) int { return tagSize + roundUp(n, 8) + 12 + blobOverhead }

// blobOverhead is what the hardware adds to a key in a blob: 32 bytes of sealed blob key
// and 16 bytes of MAC (BLOB_OVERHEAD of caamkeyblob_desc.h).
const blobOverhead = 32 + 16

func roundUp(n, to int) int { return (n + to - 1) / to * to }
