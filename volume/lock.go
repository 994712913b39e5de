// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
	"imxcrypt/volume/spec"
)

// LockOptions change how a volume is locked.
type LockOptions struct {
	DryRun   bool
	Progress func(Step)
}

// Lock unmounts a volume and removes its mapping, and with it the kernel's copy of the
// key. A locked volume stays locked. A volume whose device is gone can be locked too.
func (m *Manager) Lock(ctx context.Context, s spec.Volume, o LockOptions) (Result, error) {
	r, err := m.lock(ctx, s, o)
	return r, Failed(ctx, "lock", s, errors.Join(err, m.detachImage(s)))
}

func (m *Manager) lock(ctx context.Context, s spec.Volume, o LockOptions) (_ Result, err error) {
	j := m.begin(s, o.Progress)
	release, err := m.acquire(ctx, s, o.DryRun)
	if err != nil {
		return j.result, err
	}
	defer func() { err = errors.Join(err, release()) }()
	info, err := m.sys.Mapper.Info(s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		j.result.Already = true
		return j.result, m.lockPrivate(ctx, s, o, j)
	}
	if err != nil {
		return j.result, err
	}
	if err := m.kernel.Lockable(s, info); err != nil {
		return j.result, err
	}
	if err := m.requireOwnMapping(ctx, s, info); err != nil {
		return j.result, err
	}
	targets, err := m.mountPoints(info)
	if err != nil {
		return j.result, err
	}
	if s.Ephemeral() {
		err = m.swapOff(s, info, o, j)
	} else {
		err = m.beforeUnmount(ctx, s, info, targets, o, j)
	}
	if err != nil {
		return j.result, err
	}
	if err := m.requireAwake(s, targets); err != nil {
		return j.result, err
	}
	if err := m.removable(ctx, info, targets); err != nil && !(o.DryRun && s.Swap()) {
		return j.result, err
	}
	if o.DryRun {
		return j.result, m.unmount(info, targets, o, j)
	}
	before, err := m.sys.Mounts.List()
	if err != nil {
		return j.result, err
	}
	err = m.unmount(info, targets, o, j)
	if err == nil {
		err = m.sys.Mapper.Remove(ctx, s.Mapping)
	}
	if err != nil {
		return j.result, errors.Join(err, m.mountAgain(s, info, before, j))
	}
	j.did("mapping removed")
	return j.result, m.lockPrivate(ctx, s, o, j)
}

// beforeUnmount makes sure that unmounting does not write with a dead key, and that
// nothing waits for a zone that no process will release. A volume whose key is in doubt
// gets it again. A volume whose key is dead is cut off: what was written back before is
// unchanged, and the filesystem is as after a power cut.
func (m *Manager) beforeUnmount(ctx context.Context, s spec.Volume, info dmcrypt.Info, targets []string, o LockOptions, j *runLog) error {
	is := unsuspected
	var why error
	if len(targets) > 0 {
		is, why = m.condition(s, info)
	}
	if o.DryRun {
		if is.lost() && is != cutOff {
			j.would(fmt.Sprintf("cut /dev/mapper/%s off from its device, or give it its key again: %v", s.Mapping, lostKey(s, is, why)))
		}
		return nil
	}
	var err error
	if is == doubtful {
		err = m.revive(ctx, s, ReviveOptions{}, j)
		j.result.Already = false
	} else if !is.lost() {
		err = m.settleLive(ctx, s, j)
	}
	if err == nil && is != dead && is != cutOff || !is.lost() && !fault.Is(err, fault.KeysLost) {
		return err
	}
	if is != cutOff {
		m.sys.Log.Warn("the volume is cut off from its device before it is unmounted", "volume", s.Name, "error", errors.Join(lostKey(s, is, why), err))
	}
	if err := m.cut(ctx, s, info); err != nil {
		return err
	}
	j.did("cut off from its device")
	j.warn("the volume had lost its key in the kernel, and was cut off before it was unmounted: what was written back before the loss is there, what programs wrote since is not")
	return nil
}

// lockPrivate removes the mappings that a killed run left under private names, each with
// a copy of the key.
func (m *Manager) lockPrivate(ctx context.Context, s spec.Volume, o LockOptions, j *runLog) error {
	if o.DryRun {
		return nil
	}
	removed, err := m.kernel.RemovePrivate(ctx, s)
	if removed {
		j.result.Already = false
		j.did("mapping of an interrupted run removed")
	}
	return err
}

// requireAwake refuses to unmount a volume that is suspended: unmounting writes, and
// would wait forever.
func (m *Manager) requireAwake(s spec.Volume, targets []string) error {
	if len(targets) == 0 {
		return nil
	}
	info, err := m.sys.Mapper.Info(s.Mapping)
	if err == nil && info.Suspended {
		err = fault.Newf(fault.Busy, "mapping %s is suspended and mounted on %s, and unmounting would wait for it: imxcrypt unlock %s resumes it", s.Mapping, targets[0], s.Name)
	}
	return err
}

// unmount unmounts a mapping from each target.
func (m *Manager) unmount(info dmcrypt.Info, targets []string, o LockOptions, j *runLog) error {
	for _, target := range targets {
		if o.DryRun {
			j.would("unmount " + target)
			continue
		}
		if err := m.sys.Mounts.Unmount(target); err != nil {
			return err
		}
		j.did("unmounted " + target)
	}
	if o.DryRun {
		j.would("remove /dev/mapper/" + info.Name)
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

// isMountOf reports whether a mount is of a mapping, or of a part of what is in it: a
// subvolume, a bind mount. A filesystem with an anonymous number, such as btrfs, is known
// by its source.
func isMountOf(e *mount.Entry, info dmcrypt.Info) bool {
	switch {
	case e == nil:
		return false
	case e.Major != 0:
		return e.Major == info.Number.Major && e.Minor == info.Number.Minor
	}
	return e.Source == "/dev/mapper/"+info.Name || e.Source == fmt.Sprintf("/dev/dm-%d", info.Number.Minor)
}
