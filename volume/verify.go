// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// Verify reports whether this chip now opens this volume: header and configuration agree,
// the blob opens, the key is the right one and, if the volume is unlocked, the key in the
// kernel is not lost. It writes nothing, and a volume in use stays in use.
func (m *Manager) Verify(ctx context.Context, s spec.Volume) (Result, error) {
	j := m.begin(s, nil)
	err := m.verify(ctx, s, j, nil)
	return j.result, Failed(ctx, "verify", s, err)
}

// Diagnose is Verify for a locked volume that also looks for its filesystem and does not
// wait for the device. It finds why a volume does not open.
func (m *Manager) Diagnose(ctx context.Context, s spec.Volume) error {
	s.Timeout = 0
	err := m.verify(ctx, s, m.begin(s, nil), func(h *header.Header, c *header.Storage, key source.Key) error {
		if _, err := m.sys.Mapper.Info(s.Mapping); !errors.Is(err, dmcrypt.ErrNotFound) || h.Next != nil || !s.Filesystem.ProvesKey() {
			return nil
		}
		return m.kernel.WithData(ctx, s, h, c.Data.Number(), key, func(a *mapping.Private) error {
			if proved, _ := mapping.ProveByFilesystem(s, h, a); proved && h.Token.Filesystem.Type == s.Filesystem.Type {
				return nil
			}
			return (&unlocking{Manager: m, s: s, j: m.begin(s, nil), c: c, h: h}).otherFilesystem(ctx, a)
		})
	})
	return Failed(ctx, "doctor", s, err)
}

// MountPoint returns why a locked volume could not be mounted where it is configured; nil
// if nothing prevents it.
func (m *Manager) MountPoint(s spec.Volume) error {
	at, err := m.sys.Mounts.Look(s.Mount.Path)
	if err == nil {
		err = at.Usable()
	}
	return err
}

func (m *Manager) verify(ctx context.Context, s spec.Volume, j *runLog, look func(*header.Header, *header.Storage, source.Key) error) (err error) {
	release, err := m.sys.Locks.Acquire(ctx, s.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if !s.Ephemeral() {
		err = m.settleLive(ctx, s, j)
	}
	if err != nil {
		return err
	}
	path, err := m.find(ctx, s, true)
	if err != nil {
		return err
	}
	if s.Ephemeral() {
		return m.verifyScratch(ctx, s, path, j)
	}
	c, h, err := m.openHeader(s, path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.Close()
	j.identify(h, path)
	if err := m.mayOpen(s, h, j); err != nil {
		return err
	}
	if !h.Copies.Intact() {
		j.warn(fmt.Sprintf("one copy of the header is damaged; `imxcrypt header repair %s` repairs it", s.Name))
	}
	if kept, err := m.keptFiles(s, h.LUKS.UUID, j); err == nil && len(kept) > 0 {
		j.warn("what a restore or a repair of the header replaced is still kept, and opens the volume on this chip: while the volume is unlocked, and its files are right, `imxcrypt header repair " + s.Name + "` removes it: " + strings.Join(kept, ", "))
	}
	j.did("header read")
	key, err := m.openProved(ctx, s, h.KeySide(), c, j)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if err = m.verifyNext(ctx, s, h, c, j); err == nil {
		err = m.verifyFilesystem(ctx, s, h, c, key, j)
	}
	if err == nil {
		err = (&unlocking{Manager: m, s: s, j: j, c: c, h: h}).verifyLive(ctx, key)
	}
	if err == nil && look != nil {
		err = look(h, c, key)
	}
	return err
}

// verifyByFilesystem proves a key by the filesystem alone, read-only.
func (m *Manager) verifyByFilesystem(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, key source.Key) error {
	return m.lookThrough(ctx, s, h, c, key, func(u *unlocking, _ *mapping.Private, seen error) error {
		if h.Check.InHeader() {
			return fault.New(fault.KeyWrong, "the key does not show the volume's filesystem", seen)
		}
		return u.seenDetached(seen)
	})
}

// lookThrough looks for the filesystem through a read-only private mapping. Unless it is
// seen there under a header on the device, otherwise decides.
func (m *Manager) lookThrough(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, key source.Key, otherwise func(u *unlocking, a *mapping.Private, seen error) error) error {
	u := &unlocking{Manager: m, s: s, j: m.begin(s, nil), c: c, h: h}
	return m.kernel.WithData(ctx, s, h, c.Data.Number(), key, func(a *mapping.Private) error {
		proved, seen := mapping.ProveByFilesystem(s, h, a)
		if proved && h.Check.InHeader() && h.Token.Filesystem.Type == s.Filesystem.Type {
			return nil
		}
		return otherwise(u, a, seen)
	})
}

// verifyFilesystem looks for the filesystem of a volume that is not mounted: the check
// may be as old as the header, which someone may have put back.
func (m *Manager) verifyFilesystem(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, key source.Key, j *runLog) error {
	if !h.Check.InHeader() || h.UnderRotation() || !s.Filesystem.Made() {
		return nil
	}
	if info, err := m.sys.Mapper.Info(s.Mapping); err == nil {
		if targets, err := m.mountPoints(info); err != nil || len(targets) > 0 {
			return err
		}
	}
	err := m.seeFilesystem(ctx, s, h, c, key)
	if err == nil {
		j.did("filesystem seen")
	}
	if !s.Filesystem.ProvesKey() && (fault.Is(err, fault.FilesystemMissing) || fault.Is(err, fault.FilesystemWrong)) {
		return nil // an updater may be writing it; noise would be another matter
	}
	return err
}

// seeFilesystem looks for the filesystem with a key that the check has proved. With a
// header on the device it also accepts another filesystem than provisioning made, of the
// configured type.
func (m *Manager) seeFilesystem(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, key source.Key) error {
	if !h.Check.InHeader() {
		return m.verifyByFilesystem(ctx, s, h, c, key)
	}
	return m.lookThrough(ctx, s, h, c, key, func(u *unlocking, a *mapping.Private, _ error) error { return u.otherFilesystem(ctx, a) })
}
