// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

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

// tryChosen is [Manager.tryKernel] for what was chosen for a reason where configured leaves
// it open. The CAAM is chosen because its device opens; where more does not work, the error
// names the other source, if that does. It is a person's to take, since it protects less.
func (m *Manager) tryChosen(ctx context.Context, configured, s spec.Volume, why string) error {
	err := m.tryKernel(ctx, s)
	if err == nil || why == "" || s.Source != spec.SourceCAAM || !slices.Contains(configured.Chosen().Fitting(), spec.SourceTrusted) {
		return err
	}
	configured.Source = spec.SourceTrusted
	if m.tryKernel(ctx, configured.For(spec.SourceTrusted, "")) == nil {
		err = fmt.Errorf("%w; source auto stands for caam, whose driver is there; if that stays broken, `source: trusted` works here, with the key in clear in the kernel's memory", err)
	}
	return err
}

// Try reports whether this kernel could provision the volume, as far as a table that is
// loaded and taken away again shows. Nothing is written or kept.
func (m *Manager) Try(ctx context.Context, s spec.Volume) error {
	release, err := m.sys.Locks.Acquire(ctx, s.Name)
	if err != nil {
		return Failed(ctx, "doctor", s, err)
	}
	configured := s
	s, why, err := m.chosen(ctx, s, false, m.begin(s, nil))
	if err == nil {
		err = m.tryChosen(ctx, configured, s, why)
	}
	return Failed(ctx, "doctor", s, errors.Join(err, release()))
}
