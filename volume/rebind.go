// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// rebind replaces the header h by next, which differs in something that the check is
// bound to, and returns it as read back. So next needs another check. It goes into the
// check area that h does not use, and is proved with the stored key before the header
// that needs it is written. If rebind is cut off at any point, one of the two headers is
// there and its check opens. The caller has claimed the device. rebind locks a detached
// header's file meanwhile.
func (m *Manager) rebind(ctx context.Context, s spec.Volume, c *header.Storage, h *header.Header, next header.Header) (_ *header.Header, err error) {
	release, err := m.kernel.LockHeader(ctx, s, h.LUKS.UUID)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	key, err := m.openProved(ctx, s, h, c, nil)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	if next.Check.InHeader() {
		next.Check.Offset = h.FreeCheckArea()
		if err := m.writeCheck(ctx, s, &next, c.Header, key); err != nil {
			return nil, err
		}
	} else if err := m.kernel.DeriveCheck(ctx, s, &next, c, key); err != nil {
		return nil, err
	}
	// With the key opened again: one that died in a suspend would prove what it wrote.
	if err := m.proveOpens(ctx, s, &next, c); err != nil {
		return nil, fmt.Errorf("nothing was changed: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := next.Write(c.Header); err != nil {
		return nil, fmt.Errorf("write the header: %w", err)
	}
	written, err := header.Read(c)
	if err != nil {
		return nil, fmt.Errorf("read the header back: %w", err)
	}
	return written, m.proveOpens(ctx, s, written, c)
}

// writeCheck durably writes a check of a key into the area that the header in memory
// names, and its digest into that header.
func (m *Manager) writeCheck(ctx context.Context, s spec.Volume, k *header.Header, on header.Device, key source.Key) error {
	block, err := header.NewCheckBlock(m.sys.Rand, k.Binding())
	if err != nil {
		return err
	}
	k.Check.Digest = sha256.Sum256(block)
	if err := m.kernel.WriteThrough(ctx, s, k, key, mapping.CheckArea(k, on), block); err != nil {
		return fmt.Errorf("write the check: %w", err)
	}
	return nil
}
