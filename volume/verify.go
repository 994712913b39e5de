// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
)

// Verify tells whether this chip, now, opens this volume: header and
// configuration agree, the blob opens, the key is the right one. Nothing is
// written, and a volume in use stays in use.
func (m *Manager) Verify(ctx context.Context, s Spec) (Result, error) {
	r, err := m.verify(ctx, s)
	return r, failed(ctx, "verify", s, err)
}

func (m *Manager) verify(ctx context.Context, s Spec) (_ Result, err error) {
	j := m.begin(s, nil)
	release, err := m.sys.Locks.Acquire(ctx, s.Name)
	if err != nil {
		return j.result, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := m.settleLive(ctx, s, j); err != nil {
		return j.result, err
	}
	path, err := m.find(ctx, s, true)
	if err != nil {
		return j.result, err
	}
	c, h, err := m.openHeader(s, path, blockdev.Flags{Direct: true})
	if err != nil {
		return j.result, err
	}
	defer c.close()
	j.of(h, path)
	if err := m.mayOpen(s, h, j); err != nil {
		return j.result, err
	}
	if !h.copies.Intact() {
		j.warn("one copy of the header is damaged; the next unlock mends it")
	}
	j.did("header read")
	key, err := m.openKey(ctx, s, h)
	if err != nil {
		return j.result, err
	}
	defer key.wipe()
	j.did("key opened")
	if err = m.proveKey(ctx, s, h, c, key); err == nil {
		j.did("key proved")
		err = m.verifyNext(ctx, s, h, c, j)
	}
	return j.result, err
}

// verifyByFilesystem maps the data read-only under a private name. A volume
// that is unlocked already cannot be mapped twice, but the key it runs with was
// proved then; what is new is that the blob opened again.
func (m *Manager) verifyByFilesystem(ctx context.Context, s Spec, h *header, c *container, key liveKey) error {
	u := &unlocking{Manager: m, s: s, j: m.begin(s, nil), c: c, h: h}
	name := s.Mapping + checkSuffix
	a, err := m.activate(ctx, name, dmcrypt.HelperUUID(h.luks.UUID, name), h.description(), key, true, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return h.dataTable(s, c.data.Number(), ref)
	})
	if err != nil {
		return err
	}
	return errors.Join(u.proveFast(ctx, a, key), a.remove(ctx))
}
