// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
)

// placePlain is where the filesystem's first bytes are kept while the header has their
// place: behind the data. Without that room it is an error of code decrypt-refused.
func (x *rotating) placePlain() (int64, error) {
	area, end := x.h.LUKS.Area(), x.h.Segment.Offset+x.h.Segment.Size
	at := header.PlanStart(x.c.Data.Size(), area).Saved
	refused := func(way string) error {
		return fault.Newf(fault.DecryptRefused, "the header has the place of the first %d bytes of plain text, which need as much room behind the data, and a sector; there are %d bytes: %s",
			area, max(0, x.c.Data.Size()-end), way)
	}
	if x.h.Segment.Size <= area {
		return 0, refused("and the data is no more than that")
	}
	if end <= at {
		return at, nil
	}
	l, err := x.h.PlanRotation(x.s, x.c)
	if err == nil && l.Mode == reencrypt.Gap && l.NewOffset+l.DataSize <= at {
		return 0, refused(fmt.Sprintf("`imxcrypt rotate %s` moves the data down by %d, and leaves them there", x.s.Name, l.OldOffset-l.NewOffset))
	}
	return 0, refused("and no rotation makes room, since the gap is too small")
}

// endOnStart puts the filesystem's first bytes where the header is. Wherever it is cut off,
// the volume opens, or the device is the filesystem once the next run has put back the rest:
//
//  1. the header is kept beside those bytes
//  2. nobody uses the device, so one sector says that it is the filesystem from now on
//     (package header, Start)
//  3. the bytes are written to the device's start; the next run repeats that
//  4. what was kept is overwritten
func (x *rotating) endOnStart(ctx context.Context, path string, begin func(header.Device) (header.Start, error)) error {
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
	if err := blockdev.Zero(context.WithoutCancel(ctx), dev, start.Staged, start.Saved+start.Area); err != nil {
		return fault.New(fault.IOFailed, "overwrite what was kept on "+path, err)
	}
	if err := dev.Flush(); err != nil {
		return fault.New(fault.IOFailed, "flush "+path, err)
	}
	return nil
}

// backFrom keeps the header, and begins the way back.
func (x *rotating) backFrom(dev header.Device) (header.Start, error) {
	start := header.PlanBack(dev.Size(), x.h.LUKS.Area(), x.h.Next.Moved)
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

// continueEnding continues endOnStart. It opens no key: all data is in plain text.
func (x *rotating) continueEnding(ctx context.Context, path string) error {
	if x.o.DryRun {
		x.j.would("put the filesystem back to the start of " + path)
		return nil
	}
	var h *header.Header
	if err := x.endOnStart(ctx, path, func(dev header.Device) (start header.Start, err error) {
		start, h, err = findStart(x.s, dev, true)
		return start, err
	}); err != nil {
		return err
	}
	x.decrypted(h)
	return nil
}
