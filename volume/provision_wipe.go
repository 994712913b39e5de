// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
)

// overwrite is wipe as a step of the run.
func (p *provisioning) overwrite(ctx context.Context, dev header.Device) error {
	if err := p.wipe(ctx, dev); err != nil {
		return fault.New(fault.IOFailed, "overwrite "+p.path, err)
	}
	p.j.did("old content overwritten")
	return nil
}

// wipe overwrites every place where an old header, partition table or superblock copy
// could later be taken for valid. If it is cut off, the device is still not empty, and
// the same command continues. The magic numbers of a LUKS2 header go first, each in one
// sector, which is never torn: a half-overwritten header would count as a damaged one,
// which might be a volume of ours.
func (p *provisioning) wipe(ctx context.Context, dev header.Device) error {
	if err := blockdev.Zero(ctx, dev, 0, header.SectorBytes); err != nil {
		return err
	}
	// Where second copies may be (LUKS2 On-Disk Format 1.1, section 2.1).
	for at := 16 * header.KiB; at <= min(4*header.MiB, dev.Size()-header.SectorBytes); at *= 2 {
		if err := blockdev.Zero(ctx, dev, at, at+header.SectorBytes); err != nil {
			return err
		}
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	for _, run := range [][2]int64{{max(dev.Size()-header.MiB, 0), dev.Size()}, {0, min(8*header.MiB, dev.Size())}} {
		if err := blockdev.Zero(ctx, dev, run[0], run[1]); err != nil {
			return err
		}
	}
	return dev.Flush()
}
