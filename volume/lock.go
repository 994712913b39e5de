// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"strings"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
)

// LockOptions change how a volume is locked.
type LockOptions struct {
	DryRun   bool
	Progress func(Step)
}

// Lock unmounts a volume and takes its mapping down; with the mapping goes the
// kernel's copy of the key. A locked volume stays locked. The header is not
// read: a volume whose device is gone can be locked too.
func (m *Manager) Lock(ctx context.Context, s Spec, o LockOptions) (Result, error) {
	r, err := m.lock(ctx, s, o)
	return r, failed(ctx, "lock", s, err)
}

func (m *Manager) lock(ctx context.Context, s Spec, o LockOptions) (_ Result, err error) {
	j := m.begin(s, o.Progress)
	if !o.DryRun {
		release, err := m.sys.Locks.Acquire(ctx, s.Name)
		if err != nil {
			return j.result, err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	info, err := m.sys.Mapper.Info(s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		j.result.Already = true
		return j.result, m.lockPrivate(ctx, s, o, j)
	}
	if err != nil {
		return j.result, err
	}
	if !strings.HasPrefix(info.UUID, "CRYPT-LUKS2-") || !strings.HasSuffix(info.UUID, "-"+s.Mapping) {
		return j.result, refuse(fault.MappingMismatch, "mapping %s is not a volume of ours: its uuid is %q", s.Mapping, info.UUID)
	}
	if !o.DryRun {
		// Unmounting writes, and would wait for a zone that nobody releases.
		if err := m.settleLive(ctx, s, j); err != nil {
			return j.result, err
		}
	}
	targets, err := m.mountPoints(s, info)
	if err != nil {
		return j.result, err
	}
	for _, target := range targets {
		if o.DryRun {
			j.would("unmount " + target)
			continue
		}
		if err := m.sys.Mounts.Unmount(target); err != nil {
			return j.result, err
		}
		j.did("unmounted " + target)
	}
	if o.DryRun {
		j.would("remove /dev/mapper/" + s.Mapping)
		return j.result, nil
	}
	if err := m.sys.Mapper.Remove(ctx, s.Mapping); err != nil {
		return j.result, err
	}
	j.did("mapping removed")
	return j.result, m.lockPrivate(ctx, s, o, j)
}

// lockPrivate takes away what a killed run left under private names, each with a
// copy of the key.
func (m *Manager) lockPrivate(ctx context.Context, s Spec, o LockOptions, j *journey) error {
	if o.DryRun {
		return nil
	}
	removed, err := m.removePrivate(ctx, s)
	if removed {
		j.result.Already = false
		j.did("mapping of an interrupted run removed")
	}
	return err
}

// mountPoints lists where a mapping is mounted, the last mounted first, which
// is the order to unmount in. The source's name is looked at too: btrfs mounts
// have a number of their own.
func (m *Manager) mountPoints(s Spec, info dmcrypt.Info) ([]string, error) {
	entries, err := m.sys.Mounts.List()
	if err != nil {
		return nil, err
	}
	var targets []string
	for _, e := range entries {
		if e.Major == info.Number.Major && e.Minor == info.Number.Minor || e.Source == "/dev/mapper/"+s.Mapping {
			targets = append([]string{e.Target}, targets...)
		}
	}
	return targets, nil
}
