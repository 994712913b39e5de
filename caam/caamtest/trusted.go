// SPDX-License-Identifier: Apache-2.0

package caamtest

import (
	"crypto/hmac"

	"golang.org/x/sys/unix"
)

// trustedModifier is the key modifier of mainline's trusted keys. Because of it, a blob
// of caam-keygen does not open as a trusted key, nor the other way round.
const trustedModifier = "SECURE_KEY"

// NewTrusted makes a key of n bytes and its blob as mainline's trusted keys do.
func (c *Chip) NewTrusted(n int) (key, blob []byte, err error) {
	if n < 32 || n > 128 {
		return nil, nil, unix.EINVAL
	}
	key = make([]byte, n)
	random(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	return key, sealTrusted(c.trustedMaster(), key), nil
}

// sealTrusted returns a blob of a key.
func sealTrusted(master, key []byte) []byte {
	blobKey := make([]byte, sealedKeyLen)
	random(blobKey)
	encrypted := stream(blobKey, nil, key)
	blob := append(blocks(block(master).Encrypt, blobKey), encrypted...)
	return append(blob, mac(blobKey, macLen, encrypted)...)
}

// LoadTrusted opens a blob of NewTrusted, on the chip and in the security state in which
// it was made; otherwise the error is EBADMSG.
func (c *Chip) LoadTrusted(blob []byte) ([]byte, error) {
	n := len(blob) - sealedKeyLen - macLen
	if n < 32 || n > 128 {
		return nil, unix.EINVAL
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return openTrusted(c.trustedMaster(), blob, n)
}

// openTrusted opens a blob of sealTrusted with a key of n bytes.
func openTrusted(master, blob []byte, n int) ([]byte, error) {
	blobKey := blocks(block(master).Decrypt, blob[:sealedKeyLen])
	encrypted := blob[sealedKeyLen : sealedKeyLen+n]
	if !hmac.Equal(blob[sealedKeyLen+n:], mac(blobKey, macLen, encrypted)) {
		return nil, unix.EBADMSG
	}
	return stream(blobKey, nil, encrypted), nil
}

func (c *Chip) trustedMaster() []byte { return mac(c.master(), 32, []byte(trustedModifier)) }

// The header of a protected key in the kernel: a mark, the wrap (1 CCM, 2 ECB), and the
// plain key's length, little-endian. The blob follows.
const (
	protectedHeader  = 4
	protectedKeySize = 32
)

// NewProtected makes a protected key as mainline's CAAM does from 6.19 on: wrap is 1 for
// CCM, 2 for ECB. payload is what a cipher is given.
func (c *Chip) NewProtected(n int, wrap byte) (payload, blob []byte, err error) {
	if n != protectedKeySize || wrap != 1 && wrap != 2 {
		return nil, nil, unix.EINVAL
	}
	key := make([]byte, n)
	random(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	blob = sealTrusted(c.protectedMaster(wrap), key)
	return ProtectedPayload(blob, wrap), blob, nil
}

// ProtectedPayload returns what the kernel makes of the blob of a protected key. The chip
// is not asked, and nothing is refused.
func ProtectedPayload(blob []byte, wrap byte) []byte {
	return append([]byte{1, wrap, protectedKeySize, 0}, blob...)
}

// UnwrapProtected returns what paes would encrypt with: the blob is opened for each
// request, in any power cycle. A blob of another chip, or something that is not one, is
// EBADMSG.
func (c *Chip) UnwrapProtected(payload []byte) ([]byte, error) {
	const size = protectedHeader + sealedKeyLen + protectedKeySize + macLen
	if len(payload) != size || payload[0] != 1 {
		return nil, unix.EBADMSG
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return openTrusted(c.protectedMaster(payload[1]), payload[protectedHeader:], protectedKeySize)
}

// protectedMaster differs from the master of ordinary trusted keys: neither kind opens as
// the other.
func (c *Chip) protectedMaster(wrap byte) []byte {
	return mac(c.master(), 32, []byte(trustedModifier), []byte{'p', 'k', wrap})
}
