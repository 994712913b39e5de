// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"slices"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
)

// keyRequest is what a source needs to make a key.
type keyRequest struct {
	uuid       string
	generation int
	wrap       caam.Wrap
	keySize    int // bytes
}

// source turns a request into a stored blob, and a stored blob into a key that
// dm-crypt can name. What is stored goes into the token as it is.
type source interface {
	create(ctx context.Context, r keyRequest) (liveKey, []byte, error)
	open(ctx context.Context, r keyRequest, blob []byte) (liveKey, error)
}

// liveKey is a key ready for use. Its owner wipes it.
type liveKey interface {
	// use puts the key where the kernel finds it, under a description, calls
	// fn on the one thread that it is visible to, and takes it away again.
	use(description string, fn func(dmcrypt.KeyRef) error) error
	wipe()
}

// ciphers lists what a key of each source may be used with. The IV modes that
// are left out hash or use the raw key bytes; a black key's differ at each
// boot, so such data would be lost at the next one.
func ciphers(sourceName string) []string {
	switch sourceName {
	case SourceCAAM:
		return []string{"capi:tk(cbc(aes))-plain64", "capi:tk(cbc(aes))-plain", "capi:tk(cbc(aes))-eboiv"}
	case SourceDev:
		return []string{"aes-xts-plain64", "aes-cbc-plain64"}
	}
	return nil
}

// permitted tells whether a volume may use its source at all: known before any
// device is waited for.
func (s Spec) permitted() error {
	if !slices.Contains(ciphers(s.Source), s.Cipher) {
		return refuse(fault.CipherNotAllowed, "cipher %q cannot be used with keys of source %q", s.Cipher, s.Source)
	}
	if s.Source == SourceDev && !s.AllowInsecure {
		return refuse(fault.InsecureRefused, "source dev keeps its key readable beside the data and protects nothing")
	}
	return nil
}

// sourceOf is the source of a volume, if the volume may use it.
func (m *Manager) sourceOf(s Spec) (source, error) {
	if err := s.permitted(); err != nil {
		return nil, err
	}
	switch s.Source {
	case SourceCAAM:
		chip, err := m.sys.Chip()
		if err != nil {
			return nil, err
		}
		return chipSource{chip: chip, ring: m.sys.Keyring}, nil
	case SourceDev:
		m.sys.Log.Warn("source dev protects nothing: its key lies readable in a file", "volume", s.Name, "directory", s.StateDir)
		return devSource{files: m.sys.Files, dir: s.StateDir, random: m.sys.Rand, ring: m.sys.Keyring}, nil
	}
	return nil, refuse(fault.ConfigInvalid, "key source %q does not exist", s.Source)
}

// chipSource makes CAAM keys.
type chipSource struct {
	chip Chip
	ring Keyring
}

func (c chipSource) create(ctx context.Context, r keyRequest) (liveKey, []byte, error) {
	black, blob, err := c.chip.Create(ctx, r.wrap, r.keySize)
	if err != nil {
		return nil, nil, err
	}
	return &logonKey{payload: black.Bytes(), release: black.Wipe, ring: c.ring}, blob, nil
}

func (c chipSource) open(ctx context.Context, r keyRequest, stored []byte) (liveKey, error) {
	blob, err := caam.ParseBlob(stored)
	if err != nil {
		return nil, err
	}
	black, err := c.chip.Import(ctx, blob)
	if err != nil {
		return nil, err
	}
	if black.RedKeyLen() != r.keySize || black.Wrap() != r.wrap {
		defer black.Wipe()
		return nil, refuse(fault.KeyLengthMismatch, "the blob holds a %s key of %d bytes, the header says %s and %d",
			black.Wrap(), black.RedKeyLen(), r.wrap, r.keySize)
	}
	return &logonKey{payload: black.Bytes(), release: black.Wipe, ring: c.ring}, nil
}

// logonKey is a payload in locked memory that goes into the kernel as a logon
// key: its size is the payload's real length, never a constant.
type logonKey struct {
	payload []byte
	release func()
	ring    Keyring
}

func newLogonKey(b *secret.Buffer, ring Keyring) *logonKey {
	return &logonKey{payload: b.Bytes(), release: b.Wipe, ring: ring}
}

func (k *logonKey) use(description string, fn func(dmcrypt.KeyRef) error) error {
	if k.payload == nil {
		return fmt.Errorf("key %s was wiped already", description)
	}
	return k.ring.WithLogonKey(description, k.payload, func() error {
		return fn(dmcrypt.KeyRef{Size: len(k.payload), Type: "logon", Description: description})
	})
}

func (k *logonKey) wipe() {
	k.payload = nil
	k.release()
}
