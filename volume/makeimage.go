// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
	"imxcrypt/volume/header"
)

// makeImage makes the file of a volume's image if there is none and the configuration
// gives its size. Every check that could refuse the volume later runs first. planned
// reports that a dry run has announced all the steps.
func (p *provisioning) makeImage(ctx context.Context) (planned bool, err error) {
	if p.s.Size == 0 || p.sys.Images == nil {
		return false, nil
	}
	if _, err := p.sys.Devices.Find(ctx, p.s.Device); !fault.Is(err, fault.DeviceMissing) {
		return false, err
	}
	if err := p.imageNew(); err != nil {
		return false, err
	}
	layout, err := header.PlanLayout(p.s, header.DeviceFacts{Path: p.s.Device, Size: p.s.Size})
	if err != nil {
		return false, err
	}
	found := survey{layout: layout}
	if err := p.permitted(ctx, found); err != nil {
		return false, err
	}
	if err := p.sys.Images.Room(p.s.Device, p.s.Size); err != nil {
		return false, err
	}
	if p.o.DryRun {
		p.j.would(fmt.Sprintf("make the file %s of %d bytes", p.s.Device, p.s.Size))
		p.announceSteps(found)
		return true, nil
	}
	if err := p.sys.Images.Make(p.s.Device, p.s.Size); err != nil {
		return false, err
	}
	p.j.did(fmt.Sprintf("file of %d bytes made", p.s.Size))
	p.j.result.Warnings = nil // they are given when the volume is made
	return false, nil
}

// imageNew enforces that a missing file never existed: its filesystem may not be mounted
// yet. Another file would be hidden by that filesystem, or would hide that the data is
// gone.
func (p *provisioning) imageNew() error {
	planned, err := p.sys.Mounts.InFstab(p.s.Device)
	if err != nil {
		return fault.New(fault.IOFailed, "whether "+p.s.Device+" belongs in a mount of /etc/fstab", err)
	}
	for _, under := range []string{p.s.Under, planned} {
		if under == "" {
			continue
		}
		at, err := p.sys.Mounts.Look(under)
		if err != nil {
			return err
		}
		if at.State != mount.TargetOccupied {
			return fault.Newf(fault.VolumeNotUp, "%s is to be made in the mount of another volume or of /etc/fstab, and nothing is mounted on %s: mount that first", p.s.Device, under)
		}
	}
	if made, err := p.madeBefore(p.s); made {
		return fault.New(fault.DeviceMissing, fmt.Sprintf("%s is missing, and no new one is made: volume %q was made before, as %s says. Mount the filesystem that it belongs on; if it was removed on purpose, remove that record", p.s.Device, p.s.Name, rememberedPath(p.s)), err)
	}
	if !p.s.Detached() {
		return nil
	}
	file, err := p.sys.Devices.Open(p.s.Header, blockdev.Flags{})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return errors.Join(fault.Newf(fault.FileExists, "%s is missing, and no new one is made, because its header exists: %s", p.s.Device, p.s.Header), file.Close())
}

// sized compares the file of a volume that is not ready yet with the configuration.
func (p *provisioning) sized(dev header.Device) error {
	if p.s.Size == 0 || p.s.Size == dev.Size() {
		return nil
	}
	return fault.Newf(fault.FileExists, "%s is there with %d bytes, and the configuration's size is %d", p.s.Device, dev.Size(), p.s.Size)
}
