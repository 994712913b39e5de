// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"

	"imxcrypt/internal/fault"
)

// overwrite is wipe as a step of the run.
func (p *provisioning) overwrite(ctx context.Context, dev Device) error {
	if err := p.wipe(ctx, dev); err != nil {
		return fault.New(fault.IOFailed, "overwrite "+p.path, err)
	}
	p.j.did("old content overwritten")
	return nil
}

// wipe overwrites every place where an old header, partition table or superblock
// copy could be taken for valid later. Cut off, the device is still not empty,
// and the same command goes on: the magic numbers of a LUKS2 header go first,
// a sector each, which is never torn. Half of one that is overwritten would
// count as a damaged header, which might be a volume of ours.
func (p *provisioning) wipe(ctx context.Context, dev Device) error {
	if err := zero(ctx, dev, 0, sectorBytes); err != nil {
		return err
	}
	// Where second copies may lie (LUKS2 On-Disk Format 1.1, section 2.1).
	for at := 16 * kib; at <= min(4*mib, dev.Size()-sectorBytes); at *= 2 {
		if err := zero(ctx, dev, at, at+sectorBytes); err != nil {
			return err
		}
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	for _, run := range [][2]int64{{max(dev.Size()-mib, 0), dev.Size()}, {0, min(8*mib, dev.Size())}} {
		if err := zero(ctx, dev, run[0], run[1]); err != nil {
			return err
		}
	}
	return dev.Flush()
}

func zero(ctx context.Context, dev Device, from, to int64) error {
	zeros := make([]byte, 256*kib)
	for at := from; at < to; at += int64(len(zeros)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := dev.WriteAt(zeros[:min(int64(len(zeros)), to-at)], at); err != nil {
			return err
		}
	}
	return nil
}
