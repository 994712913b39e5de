// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"

	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// openProved opens the key that a header names and proves it. A volume in use, or its
// header, is trusted only to a key from here. j, which may be nil, records the steps. The
// caller wipes the key.
func (m *Manager) openProved(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, j *runLog) (source.Key, error) {
	key, err := m.openKey(ctx, s, h)
	if err != nil {
		return nil, err
	}
	if j != nil {
		j.did("key opened")
	}
	if err := m.proveKey(ctx, s, h, c, key); err != nil {
		key.Wipe()
		return nil, err
	}
	if j != nil {
		j.did("key proved")
	}
	return key, nil
}

// proveOpens is openProved for a caller that does not need the key.
func (m *Manager) proveOpens(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage) error {
	key, err := m.openProved(ctx, s, h, c, nil)
	if err == nil {
		key.Wipe()
	}
	return err
}

// openKey opens a volume's stored key through its source.
func (m *Manager) openKey(ctx context.Context, s spec.Volume, h *header.Header) (source.Key, error) {
	if h.InPlaintext() {
		return source.Plain{}, nil
	}
	src, err := m.sources.Of(h.SpecOfKey(s))
	if err != nil {
		return nil, err
	}
	return m.openFrom(ctx, src, s, h)
}

// openFrom is openKey for a caller that has the source.
func (m *Manager) openFrom(ctx context.Context, src source.Source, s spec.Volume, h *header.Header) (source.Key, error) {
	if err := m.sys.Harden(); err != nil {
		return nil, err
	}
	key, err := src.Open(ctx, requestOf(h), h.Token.Blob)
	return key, m.explainRejection(s, h, err)
}

// requestOf makes the request for the key of a header.
func requestOf(h *header.Header) source.Request {
	return source.Request{UUID: h.LUKS.UUID, Generation: h.Token.Generation, Wrap: h.Token.Wrap, KeySize: h.Token.KeySize}
}

// proveKey reports whether a key is the volume's: by its check and, with a detached
// header, by the filesystem, which shows that the device is the volume's. It writes
// nothing.
func (m *Manager) proveKey(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, key source.Key) error {
	if h.InPlaintext() {
		return nil // its filesystem is checked on the mapping over both sides
	}
	if h.Check.Exists() {
		err := m.explainRejection(s, h, m.kernel.ProveByCheckArea(ctx, s, h, c, key))
		if err != nil || h.Check.InHeader() || h.UnderRotation() {
			return err
		}
	}
	return m.verifyByFilesystem(ctx, s, h, c, key)
}
