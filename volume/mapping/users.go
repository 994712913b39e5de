// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// RequireUnused enforces that no one else uses the device, and removes what a killed run
// left there: with its mapping a key goes out of the kernel.
func (k Kernel) RequireUnused(ctx context.Context, s spec.Volume, h *header.Header, data header.Device) error {
	left, err := k.UsedByUs(s, h, data)
	if err == nil && left {
		_, err = k.RemovePrivate(ctx, s)
	}
	return err
}

// UsedByUs reports whether private mappings of this volume are on its device. Any other
// user of the device is an error of code device-in-use: device-mapper lets several
// mappings share a device, so a volume that is already open under another name would be
// mounted twice, and destroyed.
func (k Kernel) UsedByUs(s spec.Volume, h *header.Header, data header.Device) (bool, error) {
	return k.UsedBeside(s, h.LUKS.UUID, data, false)
}

// UsedBeside is UsedByUs for a volume of which only the UUID is known. If live is set,
// the volume's own mapping may be there too. A mapping with another name belongs to
// someone else, even with this volume's UUID: it was opened by another configuration.
func (k Kernel) UsedBeside(s spec.Volume, uuid string, data header.Device, live bool) (private bool, err error) {
	users, err := k.Devices.Users(data.Number())
	if err != nil {
		return false, err
	}
	others := users
	others.Holders = nil
	for _, holder := range users.Holders {
		ours := uuid != "" && strings.HasPrefix(holder.UUID, dmcrypt.HelperUUID(uuid, s.Mapping+":"))
		private = private || ours
		if !ours && !(live && uuid != "" && holder.UUID == dmcrypt.VolumeUUID(uuid, s.Mapping)) {
			others.Holders = append(others.Holders, holder)
		}
	}
	if !others.None() {
		return false, &blockdev.BusyError{Path: data.Path(), Users: others, Err: unix.EBUSY}
	}
	return private, nil
}

// Unshared enforces that only this volume's own mappings, which may be in use, are on the
// device at path.
func (k Kernel) Unshared(s spec.Volume, h *header.Header, path string) error {
	data, err := k.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return err
	}
	_, err = k.UsedBeside(s, h.LUKS.UUID, data, true)
	return errors.Join(err, data.Close())
}

// RoomForWrites is more header writes than any command needs, including those that finish
// the command after every interruption.
const RoomForWrites = 1 << 16

// Claim enforces what must hold before a volume that is not open is written to. No one
// may use its device, not even a user that neither sysfs nor the mount table of this
// namespace shows, and with write the device must be writable. The claim is given up at
// once, since device-mapper accepts only its own claims; from then on each mapping claims
// the device against everything except other mappings.
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

// ClaimSuffix is the suffix of the private mapping by which [Kernel.KeepClaim] holds a
// device.
const ClaimSuffix = ":claim"

// KeepClaim is Claim until release is called. It makes a private read-only mapping of the
// whole device, beside which device-mapper allows other mappings on the device and
// nothing else. Before a caller opens the device exclusively itself, it must call
// release.
func (k Kernel) KeepClaim(ctx context.Context, s spec.Volume, uuid string, data header.Device) (release func() error, err error) {
	a := &Private{K: k, Name: s.Mapping + ClaimSuffix}
	whole := dmcrypt.Table{dmcrypt.Linear{Length: uint64(data.Size() / header.SectorBytes), Device: data.Number()}}
	if a.Num, err = k.Mapper.Activate(ctx, a.Name, dmcrypt.HelperUUID(uuid, a.Name), whole, true); err != nil {
		return nil, err
	}
	return func() error { return a.Remove(ctx) }, nil
}

// LockHeader keeps others from the file of a detached header until release is called. A
// header on the device is protected with the device. uuid is that of the volume, whose
// lock is held: what a killed run has left over the file, with a key, is removed.
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

// RemovePrivate removes the private mappings of a volume. removed reports whether there
// were any.
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
			return removed, fault.Newf(fault.MappingMismatch, "mapping %s is not imxcrypt's: its uuid is %q", name, info.UUID)
		}
		if err := k.Mapper.Remove(ctx, name); err != nil {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}

// NotOwnMapping refuses a device that is the unlocked volume itself: its content may have
// been made to look like its container.
func (k Kernel) NotOwnMapping(s spec.Volume, data header.Device) error {
	info, err := k.Mapper.Info(s.Mapping)
	if err != nil {
		return nil // there is no mapping, or no device-mapper
	}
	if n := data.Number(); n.Major != info.Number.Major || n.Minor != info.Number.Minor {
		return nil
	}
	return fault.Newf(fault.DeviceAmbiguous, "%s is the volume's own mapping, which lies on its device: device %q must not lead to it", data.Path(), s.Device)
}
