// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"slices"
	"strings"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// chosen returns the configuration with what it leaves open filled in: the source that
// auto stands for, and the cipher of trusted keys. They are those of the header. If there
// is no header yet, they are what works here, and why gives the reason. Everything else
// is as configured. Warnings go to j.
func (m *Manager) chosen(ctx context.Context, s spec.Volume, recovery bool, j *runLog) (_ spec.Volume, why string, err error) {
	if s.Source != spec.SourceAuto && !s.CipherOpen() {
		return s, "", nil
	}
	if err := s.Permitted(); err != nil {
		return s, "", err
	}
	// Do not wait for a file that is yet to be made.
	path, missing := m.find(ctx, s, s.Size == 0)
	if missing != nil && (s.Size == 0 || !fault.Is(missing, fault.DeviceMissing)) {
		return s, "", missing
	}
	// The survey reports what is wrong with a header.
	if c, h, err := m.openHeader(s, path, blockdev.Flags{Direct: true}); err == nil {
		if err := c.Close(); err != nil {
			return s, "", err
		}
		h = h.KeySide()
		if s = s.For(h.Token.Source, h.Segment.Encryption); s.Source == spec.SourceAuto {
			return s, "", h.Matches(s)
		}
		return s, "", nil
	}
	if recovery && s.Source == spec.SourceAuto {
		return s.For(spec.SourceCAAM, ""), "source caam: it is the only one with recovery copies", nil
	}
	var reasons []string
	if s.Source == spec.SourceAuto {
		choice, err := m.sources.Choose(s)
		if err != nil {
			return s, "", err
		}
		s.Source = choice.Source
		reasons = append(reasons, "source "+choice.Source+": "+choice.Why)
	}
	s, why, err = m.withCipher(ctx, s, j)
	if why != "" {
		reasons = append(reasons, why)
	}
	return s, strings.Join(reasons, "; "), err
}

// settled returns the configuration for a rotation: what it leaves open stays as it is in
// the header, or is chosen if the new key has another source.
func (m *Manager) settled(ctx context.Context, s spec.Volume, h *header.Header, j *runLog) (spec.Volume, error) {
	if s.Source != spec.SourceAuto && s.Source != h.Token.Source {
		s, _, err := m.withCipher(ctx, s, j)
		return s, err
	}
	return s.For(h.Token.Source, h.Segment.Encryption), nil
}

// withCipher chooses a cipher if the configuration leaves it open, and says why it is not
// the usual one. Without AES instructions it is Adiantum, which is then several times as
// fast, if a trial shows that the kernel has it.
func (m *Manager) withCipher(ctx context.Context, s spec.Volume, j *runLog) (_ spec.Volume, why string, err error) {
	usual := s.For(s.Source, "")
	other := s.For(s.Source, keysource.Adiantum)
	if !s.CipherOpen() || m.sys.HasAES() || other.Permitted() != nil || !slices.Contains(keysource.KeySizes(other.Keys(), other.Cipher), other.KeySize) {
		return usual, "", nil
	}
	switch err := m.tryKernel(ctx, other); {
	case err == nil:
		return other, "cipher " + other.Cipher + ": this processor has no instructions for AES", nil
	case !fault.Is(err, fault.SoftCipherMissing):
		return s, "", err
	}
	j.warn("this processor has no instructions for AES, and the kernel has no " + other.Cipher + " (CONFIG_CRYPTO_ADIANTUM), which would be faster than " + usual.Cipher)
	return usual, "", nil
}
