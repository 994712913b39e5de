// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"fmt"

	"imxcrypt/internal/secret"
)

// BlackKey is a tagged black key in locked memory. Its owner must call Wipe.
type BlackKey struct {
	mem       *secret.Buffer
	wrap      Wrap
	redKeyLen int
}

// NewBlackKey checks that mem holds exactly one tagged black key. It takes
// ownership of mem, which is wiped with the BlackKey, or at once on error. The
// error is an [*Error] of kind Damaged.
func NewBlackKey(mem *secret.Buffer) (*BlackKey, error) {
	t, err := readBlackKey(mem.Bytes())
	if err != nil {
		mem.Wipe()
		return nil, &Error{Op: "parse black key", Kind: Damaged, Reason: err.Error()}
	}
	return &BlackKey{mem: mem, wrap: t.wrap(), redKeyLen: int(t.redKeyLen)}, nil
}

func readBlackKey(data []byte) (tag, error) {
	t, err := readTag(data)
	if err == nil && !t.isBlackKey() {
		err = fmt.Errorf("%d bytes around a key of %d are not a %s black key, which has %d",
			t.size(), t.redKeyLen, t.wrap(), BlackKeySize(t.wrap(), int(t.redKeyLen)))
	}
	return t, err
}

// CheckKey returns why bytes must not become a key for tk(). The driver trusts the
// header: if it does not match the payload, the driver reads past the payload or
// overwrites kernel memory. The error is an [*Error] of kind Damaged.
func CheckKey(payload []byte) error {
	t, err := readBlackKey(payload)
	if err == nil && !IsAESKeySize(int(t.redKeyLen)) {
		err = fmt.Errorf("a black key around %d bytes, tk() takes 16, 24 or 32", t.redKeyLen)
	}
	if err != nil {
		return &Error{Op: "check black key", Kind: Damaged, Reason: err.Error()}
	}
	return nil
}

// Bytes returns the tagged object as caam-keygen writes it and tk() takes it. It is in
// locked memory, valid until Wipe, and nil afterwards.
func (k *BlackKey) Bytes() []byte { return k.mem.Bytes() }

// Len returns the size in bytes of the tagged object: the number that belongs in a
// dm-crypt table. It is 0 after Wipe.
func (k *BlackKey) Len() int { return k.mem.Len() }

// RedKeyLen returns the length in bytes of the AES key in it.
func (k *BlackKey) RedKeyLen() int { return k.redKeyLen }

// Wrap returns what the key is encrypted with.
func (k *BlackKey) Wrap() Wrap { return k.wrap }

// Wipe overwrites the key. It may be called more than once, and on nil.
func (k *BlackKey) Wipe() {
	if k != nil {
		k.mem.Wipe()
	}
}

// String keeps a key that is printed by mistake from showing its content.
func (k *BlackKey) String() string { return "[black key]" }

// GoString does the same for %#v.
func (k *BlackKey) GoString() string { return "[black key]" }
