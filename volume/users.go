// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
)

// alone enforces that nobody else uses the device, and takes away what a killed
// run left there: with its mapping goes a key out of the kernel.
func (m *Manager) alone(ctx context.Context, s Spec, h *header, data Device) error {
	left, err := m.usedByUs(h, data)
	if err == nil && left {
		_, err = m.removePrivate(ctx, s)
	}
	return err
}

// usedByUs tells whether private mappings of this volume lie on its device.
// Anybody else who uses the device is an error of code device-in-use:
// device-mapper lets several mappings share one, so a volume that is open by
// another name already would be mounted twice, and destroyed.
func (m *Manager) usedByUs(h *header, data Device) (bool, error) {
	users, err := m.sys.Devices.Users(data.Number())
	if err != nil {
		return false, err
	}
	others := users
	others.Holders = slices.DeleteFunc(slices.Clone(users.Holders), func(holder blockdev.Holder) bool {
		return strings.HasPrefix(holder.UUID, dmcrypt.HelperUUID(h.luks.UUID, ""))
	})
	if !others.None() {
		return false, &blockdev.BusyError{Path: data.Path(), Users: others, Err: unix.EBUSY}
	}
	return len(users.Holders) > 0, nil
}

// removePrivate takes away the private mappings of a name. removed tells whether
// there was one.
func (m *Manager) removePrivate(ctx context.Context, s Spec) (removed bool, err error) {
	for _, suffix := range privateSuffixes() {
		name := s.Mapping + suffix
		info, err := m.sys.Mapper.Info(name)
		if errors.Is(err, dmcrypt.ErrNotFound) {
			continue
		}
		if err != nil {
			return removed, err
		}
		if !strings.HasPrefix(info.UUID, dmcrypt.UUIDPrefixHelper) || !strings.HasSuffix(info.UUID, "-"+name) {
			return removed, refuse(fault.MappingMismatch, "mapping %s is not ours: its uuid is %q", name, info.UUID)
		}
		if err := m.sys.Mapper.Remove(ctx, name); err != nil {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}
