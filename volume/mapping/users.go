// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"context"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// RequireUnused enforces that nobody else uses the device, and removes what a killed
// run left there: with its mapping goes a key out of the kernel.
func (k Kernel) RequireUnused(ctx context.Context, s spec.Volume, h *header.Header, data header.Device) error {
	left, err := k.UsedByUs(s, h, data)
	if err == nil && left {
		_, err = k.RemovePrivate(ctx, s)
	}
	return err
}

// UsedByUs reports whether private mappings of this volume lie on its device.
// Anybody else who uses the device is an error of code device-in-use:
// device-mapper lets several mappings share one, so a volume that is open by
// another name already would be mounted twice, and destroyed.
func (k Kernel) UsedByUs(s spec.Volume, h *header.Header, data header.Device) (bool, error) {
	return k.UsedBeside(s, h.LUKS.UUID, data, false)
}

// UsedBeside is UsedByUs for a volume of which no more than the UUID is known.
// live: its own mapping may lie there, too. What carries another name is somebody
// else's, also with this volume's UUID: it was opened by another configuration.
func (k Kernel) UsedBeside(s spec.Volume, uuid string, data header.Device, live bool) (private bool, err error) {
	users, err := k.Devices.Users(data.Number())
	if err != nil {
		return false, err
	}
	others := users
	others.Holders = slices.DeleteFunc(slices.Clone(users.Holders), func(holder blockdev.Holder) bool {
		if uuid == "" {
			return false
		}
		ours := strings.HasPrefix(holder.UUID, dmcrypt.HelperUUID(uuid, s.Mapping+":"))
		private = private || ours
		return ours || live && holder.UUID == dmcrypt.VolumeUUID(uuid, s.Mapping)
	})
	if !others.None() {
		return false, &blockdev.BusyError{Path: data.Path(), Users: others, Err: unix.EBUSY}
	}
	return private, nil
}

// Unshared enforces that nobody but this volume's own mappings, which may be in
// use, lie on the device at path.
func (k Kernel) Unshared(s spec.Volume, h *header.Header, path string) error {
	data, err := k.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return err
	}
	_, err = k.UsedBeside(s, h.LUKS.UUID, data, true)
	return errors.Join(err, data.Close())
}

// RoomForWrites is more header writes than any command needs, with what it takes to
// end it after every interruption.
const RoomForWrites = 1 << 16

// Claim enforces what must hold before a volume that is not open is written to:
// nobody uses its device, not even somebody whom neither sysfs nor the mount table
// of this namespace shows, and with write it can be written. The claim is given up at once,
// since device-mapper takes none but its own; from then on each mapping claims the
// device against all but other mappings.
func (k Kernel) Claim(ctx context.Context, s spec.Volume, h *header.Header, data header.Device, write bool) error {
	if err := k.RequireUnused(ctx, s, h, data); err != nil {
		return err
	}
	dev, err := k.Devices.Open(data.Path(), blockdev.Flags{Write: write, Exclusive: true, Direct: true})
	if err != nil {
		return err
	}
	return dev.Close()
}

// ClaimSuffix is that of the private mapping by which [Kernel.KeepClaim] holds a device.
const ClaimSuffix = ":claim"

// KeepClaim is Claim until release is called: a private read-only mapping of the whole
// device, beside which device-mapper lets other mappings lie on it and nothing else. Who
// opens the device exclusively himself must release it before.
func (k Kernel) KeepClaim(ctx context.Context, s spec.Volume, uuid string, data header.Device) (release func() error, err error) {
	a := &Private{K: k, Name: s.Mapping + ClaimSuffix}
	whole := dmcrypt.Table{dmcrypt.Linear{Length: uint64(data.Size() / header.SectorBytes), Device: data.Number()}}
	if a.Num, err = k.Mapper.Activate(ctx, a.Name, dmcrypt.HelperUUID(uuid, a.Name), whole, true); err != nil {
		return nil, err
	}
	return func() error { return a.Remove(ctx) }, nil
}

// LockHeader keeps others from the file of a detached header until release is
// called. A header on the device goes with the device. uuid is the volume's, whose lock is
// held: what a killed run has left over the file, with a key, is taken away.
func (k Kernel) LockHeader(ctx context.Context, s spec.Volume, uuid string) (release func() error, err error) {
	if !s.Detached() {
		return func() error { return nil }, nil
	}
	check := s.Mapping + CheckSuffix
	if err := k.RemoveLeftover(ctx, check, dmcrypt.HelperUUID(uuid, check)); err != nil {
		return nil, err
	}
	f, err := k.Devices.Open(s.Header, blockdev.Flags{Exclusive: true})
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}

// RemovePrivate takes away the private mappings of a name. removed reports whether
// there was one.
func (k Kernel) RemovePrivate(ctx context.Context, s spec.Volume) (removed bool, err error) {
	for _, suffix := range PrivateSuffixes() {
		name := s.Mapping + suffix
		info, err := k.Mapper.Info(name)
		if errors.Is(err, dmcrypt.ErrNotFound) {
			continue
		}
		if err != nil {
			return removed, err
		}
		if !strings.HasPrefix(info.UUID, dmcrypt.UUIDPrefixHelper) || !strings.HasSuffix(info.UUID, "-"+name) {
			return removed, fault.Newf(fault.MappingMismatch, "mapping %s is not ours: its uuid is %q", name, info.UUID)
		}
		if err := k.Mapper.Remove(ctx, name); err != nil {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}

// NotOwnMapping refuses a device that is the volume itself, unlocked: what lies
// in it was perhaps made to look like its container.
func (k Kernel) NotOwnMapping(s spec.Volume, data header.Device) error {
	info, err := k.Mapper.Info(s.Mapping)
	if err != nil {
		return nil // there is none, or no device-mapper
	}
	if n := data.Number(); n.Major != info.Number.Major || n.Minor != info.Number.Minor {
		return nil
	}
	return fault.Newf(fault.DeviceAmbiguous, "%s is the volume's own mapping, which lies on its device: device %q must not lead to it", data.Path(), s.Device)
}
