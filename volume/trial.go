// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/caam"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// tryKernel has the kernel load a table like the volume's, with a key like the one that
// will be made, before anything is written: dm-crypt may not get a cipher that
// /proc/crypto lists (NXP's tk() and a dm-crypt without NXP's patches). The key is kept
// nowhere, and no device is touched.
func (m *Manager) tryKernel(ctx context.Context, s spec.Volume) error {
	if s.Source == spec.SourceTrusted && s.Cipher == keysource.CBC {
		return fault.Newf(fault.CipherNotAllowed, "cipher aes-cbc-plain64 is for volumes that adopt takes over: its IVs can be predicted")
	}
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

// openSource reports whether nothing in the configuration asks for a particular source.
func openSource(s *spec.Volume) bool {
	return s.Source == spec.SourceAuto && s.Wrap == "" && s.Cipher == "" && s.KeySize == 0
}

// tryChosen is [Manager.tryKernel] for the chosen source. instead reports whether it
// could be another. The CAAM is chosen because its device opens. If the rest does not
// work, the error names trusted keys, if those work. Only a person may choose them, since
// they protect less.
func (m *Manager) tryChosen(ctx context.Context, s spec.Volume, instead bool) error {
	err := m.tryKernel(ctx, s)
	if err == nil || !instead || s.Source != spec.SourceCAAM {
		return err
	}
	s.Source, s.Cipher, s.KeySize = spec.SourceTrusted, "", 0
	if m.tryKernel(ctx, s.For(s.Source, "")) == nil {
		err = fmt.Errorf("%w; source auto took caam, whose driver is there; `source: trusted` works here", err)
	}
	return err
}

// Try reports whether this kernel could provision the volume, as far as loading and
// removing a table shows. It writes and keeps nothing.
func (m *Manager) Try(ctx context.Context, s spec.Volume) error {
	release, err := m.sys.Locks.Acquire(ctx, s.Name)
	if err != nil {
		return Failed(ctx, "doctor", s, err)
	}
	instead := openSource(&s)
	s, why, err := m.chosen(ctx, s, false, m.begin(s, nil))
	if err == nil {
		err = m.tryChosen(ctx, s, instead && why != "")
	}
	return Failed(ctx, "doctor", s, errors.Join(err, release()))
}
