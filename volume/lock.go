// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
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
	if err := m.lockable(s, info); err != nil {
		return j.result, err
	}
	if !o.DryRun {
		// Unmounting writes, and would wait for a zone that nobody releases.
		if err := m.settleLive(ctx, s, j); err != nil {
			return j.result, err
		}
	}
	targets, err := m.mountPoints(info)
	if err != nil {
		return j.result, err
	}
	if err := m.awake(s, targets); err != nil {
		return j.result, err
	}
	if err := m.unmount(info, targets, o, j); err != nil {
		return j.result, err
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

// awake refuses to unmount a volume that is suspended: unmounting writes, and
// would wait for ever.
func (m *Manager) awake(s Spec, targets []string) error {
	if len(targets) == 0 {
		return nil
	}
	info, err := m.sys.Mapper.Info(s.Mapping)
	if err == nil && info.Suspended {
		err = refuse(fault.Busy, "mapping %s is suspended and mounted on %s, and unmounting would wait for it: imxcrypt unlock %s resumes it", s.Mapping, targets[0], s.Name)
	}
	return err
}

// unmount unmounts a mapping from each target, and nothing that somebody mounted
// over it.
func (m *Manager) unmount(info dmcrypt.Info, targets []string, o LockOptions, j *journey) error {
	for _, target := range targets {
		at, err := m.sys.Mounts.Look(target)
		if err != nil {
			return err
		}
		if at.State == mount.TargetOccupied && !isMountOf(at.Mounted, info) {
			return refuse(fault.MountBusy, "%s (%s) is mounted over the volume on %s: unmount that first", at.Mounted.Source, at.Mounted.Type, target)
		}
		if o.DryRun {
			j.would("unmount " + target)
			continue
		}
		if err := m.sys.Mounts.Unmount(target); err != nil {
			return err
		}
		j.did("unmounted " + target)
	}
	return nil
}

// mountPoints lists where a mapping is mounted, the last mounted first, which
// is the order to unmount in.
func (m *Manager) mountPoints(info dmcrypt.Info) ([]string, error) {
	entries, err := m.sys.Mounts.List()
	if err != nil {
		return nil, err
	}
	var targets []string
	for _, e := range entries {
		if isMountOf(&e, info) {
			targets = append([]string{e.Target}, targets...)
		}
	}
	return targets, nil
}

// isMountOf tells whether a mount is of a mapping, or of a part of what lies in
// it: a subvolume, a bind mount. A filesystem with an anonymous number, as btrfs,
// is known by its source.
func isMountOf(e *mount.Entry, info dmcrypt.Info) bool {
	switch {
	case e == nil:
		return false
	case e.Major != 0:
		return e.Major == info.Number.Major && e.Minor == info.Number.Minor
	}
	return e.Source == "/dev/mapper/"+info.Name || e.Source == fmt.Sprintf("/dev/dm-%d", info.Number.Minor)
}
