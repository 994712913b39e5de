// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/spec"
)

// ResizeOptions change how a volume takes the space that its device has.
type ResizeOptions struct {
	// Size is how many bytes the data should have; 0 means all that there is room for.
	Size int64
	// DryRun looks and changes nothing.
	DryRun bool
	// Progress is called after each step.
	Progress func(Step)
}

// ResizeResult is the result of a resize.
type ResizeResult struct {
	Result
	// From and To are the bytes of data before and now, or after a dry run.
	From int64 `json:"from_bytes"`
	To   int64 `json:"to_bytes"`
	// Pending reports that the filesystem has not grown yet because it is not mounted.
	Pending bool `json:"filesystem_pending"`
}

// Resize gives a volume the space that its device has now: in the header, in the live
// mapping and in the mounted filesystem, in this order. It only grows. If it is cut off
// at any point, the volume opens with the old size or the new one, and the next run
// finishes what is missing.
func (m *Manager) Resize(ctx context.Context, s spec.Volume, o ResizeOptions) (ResizeResult, error) {
	z := &resizing{Manager: m, s: s, o: o, j: m.begin(s, o.Progress)}
	err := m.onDevice(ctx, s, func(path string) error { return z.onPath(ctx, path) })
	if z.pending && err == nil {
		z.j.warn("the filesystem is not mounted: mount it and run resize again, then it takes the space")
	}
	z.j.result.Already = err == nil && (len(z.j.result.Steps) == 0 || o.DryRun && z.to == z.from)
	return ResizeResult{Result: z.j.result, From: z.from, To: z.to, Pending: z.pending}, Failed(ctx, "resize", s, err)
}

// resizing is one run over one volume.
type resizing struct {
	*Manager
	s spec.Volume
	o ResizeOptions
	j *runLog
	c *header.Storage
	h *header.Header

	from, to int64
	pending  bool
}

func (z *resizing) onPath(ctx context.Context, path string) (err error) {
	if err = z.imageResized(z.s); err != nil {
		return err
	}
	if z.c, err = z.openContainer(z.s, path, rotationFlags(!z.o.DryRun)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, z.c.Close()) }()
	if z.h, err = header.Read(z.c); err != nil {
		return err
	}
	z.j.identify(z.h, path)
	return z.run(ctx)
}

func (z *resizing) run(ctx context.Context) error {
	if err := z.mayResize(); err != nil {
		return err
	}
	u := &unlocking{Manager: z.Manager, s: z.s, o: UnlockOptions{DryRun: z.o.DryRun}, j: z.j, c: z.c, h: z.h}
	live, err := u.alreadyOpen(ctx)
	if err != nil {
		return err
	}
	if live {
		z.j.result.Mapping = "/dev/mapper/" + z.s.Mapping
	}
	if z.to > z.from {
		if err := z.mayWrite(ctx, live); err != nil {
			return err
		}
	}
	if z.o.DryRun {
		z.announceSteps(live)
		return nil
	}
	if z.to > z.from {
		if err := z.growHeader(ctx); err != nil {
			return err
		}
	}
	if z.c.Detached() {
		if err := z.c.Header.Flush(); err != nil { // a killed run may have left it in the page cache only
			return err
		}
	}
	if live {
		err = z.growLive(ctx)
	}
	if err == nil {
		err = z.growFilesystem(live)
	}
	return err
}

// mayResize applies the rules that must hold before anything is written, and finds the
// new size.
func (z *resizing) mayResize() error {
	if err := z.mayOpen(z.s, z.h, z.j); err != nil {
		return err
	}
	if z.h.Next != nil {
		return fault.Newf(fault.RotationUnderWay, "a rotation is under way: to move the data it needs the space that the volume would take")
	}
	switch t := z.s.Filesystem.Type; t {
	case "vfat":
		return fault.Newf(fault.ResizeRefused, "a vfat filesystem does not grow: back up the data and provision the volume again")
	case "f2fs":
		return fault.Newf(fault.ResizeRefused, "a f2fs filesystem grows only while it is not mounted, by a program (resize.f2fs) that a power cut may leave half done: back up the data and provision the volume again")
	}
	room, err := z.h.Room(z.s, z.c, facts(z.c.Data))
	if err != nil {
		return err
	}
	z.from = z.h.Segment.Size
	z.to, err = wantedSize(z.o.Size, z.from, room)
	return err
}

// wantedSize returns the data's new size. Shrinking would cut off the end of the
// filesystem.
func wantedSize(asked, from, room int64) (int64, error) {
	to := asked / header.BlockAlign * header.BlockAlign
	switch {
	case asked == 0:
		return max(room, from), nil
	case to < from:
		return from, fault.Newf(fault.ResizeRefused, "%d bytes are less than the %d bytes that the volume has: a volume never shrinks, since its filesystem would lose what lies at its end", asked, from)
	case to > max(room, from):
		return from, fault.Newf(fault.ResizeRefused, "%d bytes are more than the device has room for, which is %d", asked, max(room, from))
	}
	return to, nil
}

// mayWrite enforces that no one else uses the device and that the header can be written.
func (z *resizing) mayWrite(ctx context.Context, live bool) error {
	if err := headerWritable(z.h, z.c); err != nil {
		return err
	}
	if !live && !z.o.DryRun {
		return z.kernel.Claim(ctx, z.s, z.h, z.c.Data, true)
	}
	_, err := z.kernel.UsedBeside(z.s, z.h.LUKS.UUID, z.c.Data, true)
	return err
}

func (z *resizing) announceSteps(live bool) {
	if z.to == z.from {
		z.j.would("do nothing but compare mapping and filesystem: the volume has all the space there is")
		return
	}
	z.j.would(fmt.Sprintf("grow the data from %d to %d bytes", z.from, z.to))
	if live {
		z.j.would("grow /dev/mapper/" + z.s.Mapping)
	}
	if z.s.Filesystem.Made() {
		z.j.would("grow the " + z.s.Filesystem.Type + " filesystem while it is mounted")
	}
}

// growHeader writes a header with the new size, to which its check is bound.
func (z *resizing) growHeader(ctx context.Context) (err error) {
	next := *z.h
	next.Segment.Size = z.to
	if z.h, err = z.rebind(ctx, z.s, z.c, z.h, next); err != nil {
		return err
	}
	z.j.did(fmt.Sprintf("data grown from %d to %d bytes", z.from, z.to))
	return nil
}

// growLive gives a live mapping the size in the header.
func (z *resizing) growLive(ctx context.Context) error {
	info, err := z.sys.Mapper.Info(z.s.Mapping)
	if err != nil {
		return err
	}
	live, err := z.sys.Mapper.Table(z.s.Mapping)
	if err != nil || live.Sectors() == uint64(z.h.Segment.Size/header.SectorBytes) {
		return err
	}
	key, err := z.openProved(ctx, z.s, z.h, z.c, nil)
	if err != nil {
		return err
	}
	defer key.Wipe()
	err = key.Use(mapping.Description(z.h), func(ref dmcrypt.KeyRef) error {
		t, err := mapping.DataTable(z.h, z.s, z.c.Data.Number(), ref)
		if err != nil {
			return err
		}
		return z.sys.Mapper.Swap(ctx, z.s.Mapping, t, info.ReadOnly, dmcrypt.Public, mapping.Quietly)
	})
	if err == nil {
		z.j.did("mapping grown")
	}
	return err
}

// growFilesystem has a mounted filesystem take the space of its device. The kernel does
// that, with the filesystem's journal. A filesystem that is not mounted can grow only
// once it is.
func (z *resizing) growFilesystem(live bool) error {
	if !z.s.Filesystem.Made() {
		return nil
	}
	var targets []string
	if live {
		info, err := z.sys.Mapper.Info(z.s.Mapping)
		if err == nil {
			targets, err = z.mountPoints(info)
		}
		if err != nil {
			return err
		}
	}
	if len(targets) == 0 {
		z.pending = z.to > z.from
		return nil
	}
	z.j.result.Mounted = targets[len(targets)-1]
	grown, err := z.sys.Filesystems.Grow(z.s.Filesystem.Type, targets[0], z.h.Segment.Size)
	if err != nil {
		return fmt.Errorf("the volume has grown, its filesystem on %s has not: %w", targets[0], err)
	}
	if grown {
		z.j.did(z.s.Filesystem.Type + " grown")
	}
	return nil
}
