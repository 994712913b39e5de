// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
	"imxcrypt/volume/spec"
)

// requireOwnMapping refuses the mapping of another volume that has the same name in another
// configuration. A mapping is the volume's if it is on the volume's device or its UUID
// fits the header. If the volume's device or the one under the mapping is gone, the
// mapping is accepted.
func (m *Manager) requireOwnMapping(ctx context.Context, s spec.Volume, info dmcrypt.Info) error {
	path, err := m.find(ctx, s, false)
	if err != nil {
		return nil
	}
	data, err := m.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return nil
	}
	below := m.sys.Devices.Below(info.Number)
	if err := data.Close(); err != nil || len(below) == 0 || slices.Contains(below, data.Number()) {
		return err
	}
	c, h, err := m.openHeader(s, path, blockdev.Flags{})
	if err == nil {
		is := info.UUID == dmcrypt.VolumeUUID(h.LUKS.UUID, s.Mapping)
		if err := c.Close(); err != nil || is {
			return err
		}
	}
	return fault.Newf(fault.MappingMismatch, "mapping %s is not this volume: it is not on %s, and its uuid is %q; another configuration may have a volume of this name", s.Mapping, path, info.UUID)
}

// removable checks that nothing would keep a mapping once it is unmounted from targets: a
// volume is not unmounted just to find out.
func (m *Manager) removable(ctx context.Context, info dmcrypt.Info, targets []string) error {
	users, err := m.sys.Devices.Users(info.Number)
	if err != nil {
		return err
	}
	users.Mounts = nil
	if !users.None() {
		return &blockdev.BusyError{Path: "/dev/mapper/" + info.Name, Users: users, Err: unix.EBUSY}
	}
	if err := m.sys.Mounts.Elsewhere(func(e *mount.Entry) bool { return isMountOf(e, info) }); err != nil {
		return fmt.Errorf("/dev/mapper/%s: %w", info.Name, err)
	}
	for _, target := range targets {
		at, err := m.sys.Mounts.Look(target)
		if err != nil {
			return err
		}
		if at.State == mount.TargetOccupied && !isMountOf(at.Mounted, info) {
			return fault.Newf(fault.MountBusy, "%s (%s) is mounted over the volume on %s: unmount that first", at.Mounted.Source, at.Mounted.Type, target)
		}
		// A target that contains another one is busy until that is unmounted.
		if slices.ContainsFunc(targets, func(t string) bool { return strings.HasPrefix(t, target+"/") }) {
			continue
		}
		if err := m.sys.Mounts.Idle(target); err != nil {
			return err
		}
	}
	return m.requireNotOpen(ctx, info.Name, len(targets) > 0)
}

// requireNotOpen gives udev a moment to close what it probes, and then refuses a mapping
// that a program has open.
func (m *Manager) requireNotOpen(ctx context.Context, name string, mounted bool) error {
	allowed := 0
	if mounted {
		allowed = 1
	}
	patience, cancel := context.WithTimeout(ctx, m.sys.Patience)
	defer cancel()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, m.sys.Patience) {
		looking := m.looks.Load() > 0
		info, err := m.sys.Mapper.Info(name)
		if err != nil || info.Opens <= allowed {
			return err
		}
		select {
		case <-time.After(pause):
		case <-patience.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if looking {
				// One of our own reads is waiting behind writes.
				time.Sleep(m.sys.Patience / 10)
				continue
			}
			return fault.Newf(fault.Busy, "/dev/mapper/%s is in use: a program has it open (/dev/dm-%d)", name, info.Number.Minor)
		}
	}
}

// mountAgain mounts a volume at its configured place, as it was before a lock that
// failed. Other mounts that were undone are named in warnings.
func (m *Manager) mountAgain(s spec.Volume, info dmcrypt.Info, before []mount.Entry, j *runLog) error {
	now, err := m.sys.Mounts.List()
	if err != nil {
		return err
	}
	at, err := m.sys.Mounts.Look(s.Mount.Path)
	if err != nil && s.Mount.Path != "" {
		return err
	}
	for _, e := range before {
		if !isMountOf(&e, info) || slices.ContainsFunc(now, func(n mount.Entry) bool { return n.Target == e.Target && isMountOf(&n, info) }) {
			continue
		}
		if e.Target != at.Path || e.Root != "/" {
			j.warn("unmounted, and not mounted again: " + e.Target)
			continue
		}
		options := s.Mount.Options
		if e.ReadOnly() {
			options = append([]string{"ro"}, options...)
		}
		if err := m.sys.Mounts.Mount("/dev/mapper/"+s.Mapping, e.Target, e.Type, options); err != nil {
			return fmt.Errorf("mount it again as it was: %w", err)
		}
		j.did("mounted again")
	}
	return nil
}
