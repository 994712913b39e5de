// SPDX-License-Identifier: Apache-2.0

package caamtest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
)

const (
	tagSize     = 20
	keyModifier = "CAAM_KEY_TYPE_V1"
	// testKey stands for the master key that every open chip has.
	testKey = "the same on every chip not closed"

	sealedKeyLen = 32
	macLen       = 16
	nonceLen     = 6
)

func header(w caam.Wrap, n, objLen int) []byte {
	typ := uint32(1)
	if w == caam.CCM {
		typ = 9
	}
	var out []byte
	for _, word := range []uint32{0x5461674f, 0, typ, uint32(n), uint32(objLen)} {
		out = binary.LittleEndian.AppendUint32(out, word)
	}
	return out
}

func mac(key []byte, n int, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)[:n]
}

func block(key []byte) cipher.Block {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // keys here are 32 bytes
	}
	return b
}

func stream(key, nonce, data []byte) []byte {
	iv := make([]byte, aes.BlockSize)
	copy(iv, nonce)
	out := make([]byte, len(data))
	cipher.NewCTR(block(key), iv).XORKeyStream(out, data)
	return out
}

// blocks runs one direction of AES over whole blocks, as ECB does.
func blocks(crypt func(dst, src []byte), data []byte) []byte {
	out := make([]byte, len(data))
	for i := 0; i < len(data); i += aes.BlockSize {
		crypt(out[i:i+aes.BlockSize], data[i:i+aes.BlockSize])
	}
	return out
}

// master returns the key that blobs are sealed under in the current state.
func (c *Chip) master() []byte {
	if c.closed {
		return mac(c.otpmk[:], 32, []byte(keyModifier))
	}
	return mac([]byte(testKey), 32, []byte(keyModifier))
}

// seal returns a tagged blob: sealed blob key, encrypted red key, MAC, and
// random bytes up to the driver's size.
func (c *Chip) seal(w caam.Wrap, red []byte) []byte {
	size := caam.BlobSize(len(red))
	blobKey := make([]byte, sealedKeyLen)
	random(blobKey)
	encrypted := stream(blobKey, nil, red)
	out := header(w, len(red), size-tagSize)
	out = append(out, blocks(block(c.master()).Encrypt, blobKey)...)
	out = append(out, encrypted...)
	out = append(out, mac(blobKey, macLen, encrypted)...)
	rest := make([]byte, size-len(out))
	random(rest)
	return append(out, rest...)
}

func (c *Chip) unseal(blob []byte, n int) ([]byte, error) {
	body := blob[tagSize:]
	blobKey := blocks(block(c.master()).Decrypt, body[:sealedKeyLen])
	encrypted := body[sealedKeyLen : sealedKeyLen+n]
	if !hmac.Equal(body[sealedKeyLen+n:sealedKeyLen+n+macLen], mac(blobKey, macLen, encrypted)) {
		return nil, unix.EBADMSG
	}
	return stream(blobKey, nil, encrypted), nil
}

// blacken returns a tagged black key.
func (c *Chip) blacken(w caam.Wrap, red []byte) []byte {
	size := caam.BlackKeySize(w, len(red))
	out := header(w, len(red), size-tagSize)
	if w == caam.ECB {
		padded := make([]byte, size-tagSize)
		copy(padded, red)
		return append(out, blocks(block(c.jdkek[:]).Encrypt, padded)...)
	}
	nonce := make([]byte, nonceLen)
	random(nonce)
	padded := make([]byte, size-tagSize-2*nonceLen)
	copy(padded, red)
	encrypted := stream(c.jdkek[:], nonce, padded)
	out = append(append(out, nonce...), encrypted...)
	return append(out, mac(c.jdkek[:], nonceLen, nonce, encrypted)...)
}

// whiten undoes blacken and returns n bytes of red key.
func (c *Chip) whiten(w caam.Wrap, n int, body []byte) ([]byte, error) {
	if w == caam.ECB {
		return blocks(block(c.jdkek[:]).Decrypt, body)[:n], nil
	}
	end := len(body) - nonceLen
	nonce, encrypted := body[:nonceLen], body[nonceLen:end]
	if !hmac.Equal(body[end:], mac(c.jdkek[:], nonceLen, nonce, encrypted)) {
		return nil, unix.EBADMSG
	}
	return stream(c.jdkek[:], nonce, encrypted)[:n], nil
}
