// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
)

// placePlain returns where the filesystem's first bytes are kept while the header is in
// their place: after the data. If there is no room, the error has code decrypt-refused.
func (x *rotating) placePlain() (int64, error) {
	area, end := x.h.LUKS.Area(), x.h.Segment.Offset+x.h.Segment.Size
	at := header.PlanStart(x.c.Data.Size(), area).Saved
	refused := func(way string) error {
		return fault.Newf(fault.DecryptRefused, "the header is where the first %d bytes of plain text belong, which need as much room after the data, plus a sector; there are %d bytes: %s",
			area, max(0, x.c.Data.Size()-end), way)
	}
	if x.h.Segment.Size <= area {
		return 0, refused("and the data is no more than that")
	}
	if end <= at {
		x.warnOfSize()
		return at, nil
	}
	l, err := x.h.PlanRotation(x.s, x.c)
	if err == nil && l.Mode == reencrypt.Gap && l.NewOffset+l.DataSize <= at {
		return 0, refused(fmt.Sprintf("`imxcrypt rotate %s` moves the data down by %d, and leaves them there", x.s.Name, l.OldOffset-l.NewOffset))
	}
	return 0, refused("and no rotation makes room, since the gap is too small")
}

// warnOfSize warns if the filesystem will be too large to be encrypted again with its
// header on the device, as is necessary if the chip is to be closed in between.
func (x *rotating) warnOfSize() {
	l, _, err := header.PlanOver(x.s, facts(x.c.Data))
	if err != nil || x.h.Segment.Size <= l.DataSize {
		return
	}
	way := "`header: FILE` takes it as it is"
	if x.h.Token.Filesystem.Type == fsprobe.Ext4 {
		way = "imxcrypt encrypt makes it smaller first, or " + way
	}
	x.j.warn(fmt.Sprintf("the filesystem will have %d bytes, and may have %d to be encrypted again with a header on the device: %s", x.h.Segment.Size, l.DataSize, way))
}

// endOnStart puts the filesystem's first bytes where the header is. Wherever it is
// interrupted, either the volume opens, or the device is the filesystem once the next run
// has put back the rest:
//
//  1. the header is copied next to those bytes
//  2. while no one else uses the device, one sector is written; from then on the device
//     is the filesystem (package header, Start)
//  3. the bytes are written to the device's start; if interrupted, the next run repeats
//     that
//  4. the kept bytes and the header's copy are overwritten
func (x *rotating) endOnStart(ctx context.Context, path string, h *header.Header, begin func(header.Device) (header.Start, error)) error {
	var start header.Start
	if err := x.writeStart(path, func(dev header.Device) (_ header.Start, err error) {
		if err = ctx.Err(); err == nil {
			start, err = begin(dev)
		}
		return start, err
	}); err != nil {
		return err
	}
	x.j.did("filesystem put back to the start of " + path)
	dev := x.c.Data
	// Also the space that the data has left: the ciphertext in it would make a backup of
	// the header seem to be the right one.
	size, offset := h.Segment.Size, h.Segment.Offset
	ctx = context.WithoutCancel(ctx)
	if err := errors.Join(blockdev.Zero(ctx, dev, size, size+offset), blockdev.Zero(ctx, dev, start.Staged, start.Saved+start.Area)); err != nil {
		return fault.New(fault.IOFailed, "overwrite what was kept on "+path, err)
	}
	if err := dev.Flush(); err != nil {
		return fault.New(fault.IOFailed, "flush "+path, err)
	}
	return nil
}

// beginPuttingBack copies the header next to the kept bytes, and begins the way back.
func (x *rotating) beginPuttingBack(dev header.Device) (header.Start, error) {
	start := header.PlanBack(dev.Size(), x.h.LUKS.Area(), x.h.Next.Moved)
	if start.Record < start.Saved+start.Area {
		return start, fault.Newf(fault.PartitionShrunk, "%s has %d bytes, and the sector that ends the decryption needs %d: the partition is smaller than when it was begun",
			dev.Path(), dev.Size(), start.Saved+start.Area+header.BlockAlign)
	}
	area := make([]byte, start.Area)
	if _, err := dev.ReadAt(area, 0); err != nil {
		return start, fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	if _, err := dev.WriteAt(area, start.Staged); err != nil {
		return start, fault.New(fault.IOFailed, "write "+dev.Path(), err)
	}
	if err := dev.Flush(); err != nil {
		return start, fault.New(fault.IOFailed, "flush "+dev.Path(), err)
	}
	return start, start.Begin(dev)
}

// continueEnding continues endOnStart. Since all data is in plaintext it opens no key,
// unless the volume's record does not name this decryption.
func (x *rotating) continueEnding(ctx context.Context, path string) error {
	start, h, err := findStart(x.s, x.c.Data, true)
	if err != nil {
		return err
	}
	if !x.decryptionRecorded(x.s, h) {
		kept := header.Window{Device: x.c.Data, Begin: start.Staged}
		s := x.s.For(h.Token.Source, h.Segment.Encryption)
		if err := x.locked(ctx, func() error {
			if err := x.proveOpens(ctx, s, h, &header.Storage{Data: kept, Header: kept}); err != nil {
				return errors.Join(decryptionNotRecorded(x.s), err)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if x.o.DryRun {
		x.j.would("put the filesystem back to the start of " + path)
		return nil
	}
	if err := x.endOnStart(ctx, path, h, func(dev header.Device) (header.Start, error) {
		start, _, err := findStart(x.s, dev, true)
		return start, err
	}); err != nil {
		return err
	}
	x.decrypted(h)
	return nil
}
