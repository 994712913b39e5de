// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
)

// changeable is the configuration with those members that a rotation can change
// as the header has them: wrap, key size, cipher and sector size. A cipher that
// keys of the source are not used with stays as configured, so that nobody can
// have it by writing it into a header.
func (h *header) changeable(s Spec) Spec {
	if !slices.Contains(ciphers(s.Source), h.segment.Encryption) {
		return s
	}
	s.Cipher, s.SectorSize = h.segment.Encryption, h.segment.SectorSize
	s.KeySize = h.token.KeySize
	if s.Source == SourceCAAM {
		s.Wrap = string(h.token.Wrap)
	}
	return s
}

// matchesRotating compares the headers of a rotation that is under way with the
// configuration: it is the new key that must be as configured.
func (h *header) matchesRotating(s Spec) error {
	if h.next == nil {
		return h.matches(s)
	}
	return errors.Join(h.next.matches(s), h.matches(h.changeable(s)))
}

// changes says what a rotation would change besides the key; empty: nothing.
func (h *header) changes(s Spec) string {
	var list []string
	change := func(what string, from, to any) {
		if from != to {
			list = append(list, fmt.Sprintf("%s from %v to %v", what, from, to))
		}
	}
	if s.Source == SourceCAAM {
		change("wrap", string(h.token.Wrap), s.Wrap)
	}
	change("key_size", h.token.KeySize, s.KeySize)
	change("cipher", h.segment.Encryption, s.Cipher)
	change("sector_size", h.segment.SectorSize, s.SectorSize)
	return strings.Join(list, ", ")
}

// largerSectors refuses crypt sectors that the filesystem cannot stand on: it
// writes in smaller pieces, which the device would not take any more.
func (x *rotating) largerSectors(ctx context.Context, old liveKey) error {
	to := x.s.SectorSize
	if to <= x.h.segment.SectorSize {
		return nil
	}
	if x.s.Filesystem.Type == FilesystemNone {
		return refuse(fault.DeviceUnsuitable, "sector_size %d: the volume holds no filesystem, so nothing tells in what pieces it is written; its sectors can only become smaller", to)
	}
	sb, err := x.superblock(ctx, old)
	if errors.Is(err, fsprobe.ErrNone) {
		return fault.New(fault.DeviceUnsuitable, fmt.Sprintf("sector_size %d: the filesystem is none that is known here; its sectors can only become smaller", to), err)
	}
	if err != nil {
		return err
	}
	if sb.Sector < to {
		return refuse(fault.DeviceUnsuitable, "sector_size %d: the %s filesystem writes in pieces of %d bytes, and could not be used any more; it would have to be made anew", to, sb.Type, sb.Sector)
	}
	return nil
}

// superblock reads the filesystem's through a mapping of its own.
func (x *rotating) superblock(ctx context.Context, old liveKey) (*fsprobe.Superblock, error) {
	name := x.s.Mapping + checkSuffix
	a, err := x.activate(ctx, name, dmcrypt.HelperUUID(x.h.luks.UUID, name), x.h.description(), old, true, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return x.h.dataTable(x.s, x.c.data.Number(), ref)
	})
	if err != nil {
		return nil, err
	}
	sb, err := probe(a)
	return sb, errors.Join(err, a.remove(ctx))
}
