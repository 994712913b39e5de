// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/caam"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// tryKernel has the kernel load a table like the volume's, with a key like the one that
// will be made, before anything is written: a cipher that /proc/crypto lists may be one
// that dm-crypt does not get (NXP's tk() and a dm-crypt without NXP's patches). The key
// is kept nowhere, and no device is touched.
func (m *Manager) tryKernel(ctx context.Context, s spec.Volume) error {
	src, err := m.sources.Of(s)
	if err != nil {
		return err
	}
	if err := m.sys.Harden(); err != nil {
		return err
	}
	key, err := src.Sample(ctx, source.Request{Wrap: caam.Wrap(s.KeyWrap()), KeySize: s.KeySize, Trial: true})
	if err != nil {
		return err
	}
	defer key.Wipe()
	if err := m.kernel.Try(ctx, s, key); err != nil {
		return fmt.Errorf("a trial, before anything is written: %w", err)
	}
	return nil
}

// Try reports whether this kernel could provision the volume, as far as a table that is
// loaded and taken away again shows. Nothing is written or kept.
func (m *Manager) Try(ctx context.Context, s spec.Volume) error {
	release, err := m.sys.Locks.Acquire(ctx, s.Name)
	if err != nil {
		return Failed(ctx, "doctor", s, err)
	}
	s, _, err = m.chosen(ctx, s, false, m.begin(s, nil))
	if err == nil {
		err = m.tryKernel(ctx, s)
	}
	return Failed(ctx, "doctor", s, errors.Join(err, release()))
}
