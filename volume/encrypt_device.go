// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// placeOver places the volume over the filesystem on the device. moved is where the
// filesystem's first bytes will be kept, 0 for a header in a file. A filesystem that
// leaves no room is an error of code device-unsuitable, unless it may be made smaller.
func (x *rotating) placeOver(dev header.Device, sb *fsprobe.Superblock, shrinks bool) (l header.Layout, moved int64, err error) {
	if x.s.Detached() {
		l, err = header.PlanLayout(x.s, facts(dev))
		return l, 0, err
	}
	l, start, err := header.PlanOver(x.s, facts(dev))
	if err != nil {
		return l, 0, err
	}
	switch {
	case sb.Size > 0 && sb.Size <= l.DataSize:
	case sb.Size > 0 && sb.Type == fsprobe.Ext4 && shrinks:
		x.shrinkFrom, x.shrinkTo = sb.Size, l.DataSize
	default:
		ways := waysOut
		if sb.Type != fsprobe.XFS { // which nothing makes smaller
			ways = "make it smaller, " + ways
		}
		return l, 0, fault.Newf(fault.DeviceUnsuitable, "the %s filesystem on %s has %d bytes of %d, and a header on the device needs it to have %d at most: %s",
			sb.Type, dev.Path(), sb.Size, dev.Size(), l.DataSize, ways)
	}
	return l, start.Saved, nil
}

// createOnDevice puts the header on the device, over the filesystem's first bytes.
// Wherever it is interrupted, either the device is the filesystem, or the volume opens:
//
//  1. those bytes, and the header area as it will be, are written to the end of the
//     device, beyond the filesystem, while the device cannot be mounted
//  2. the key is opened from there and proved
//  3. while no one else uses the device, and if it still is that filesystem, one sector
//     is written; from then on it is a volume (package header, Start)
//  4. the header area is written to the device's start; if interrupted, the next run
//     repeats that
func (x *rotating) createOnDevice(ctx context.Context, h *header.Header, key source.Key, path string) error {
	start := header.PlanStart(x.c.Data.Size(), h.LUKS.Area())
	if err := x.stageAtEnd(ctx, h, start, key, path); err != nil {
		return err
	}
	x.j.did("key proved")
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := x.writeStart(path, func(dev header.Device) (header.Start, error) {
		err := x.sameFilesystem(dev, h)
		if err == nil {
			err = x.trusted()
		}
		if err == nil {
			err = start.Begin(dev)
		}
		return start, err
	}); err != nil {
		return err
	}
	return x.openStarted(path)
}

// sameFilesystem checks that a device still is the filesystem that h was made for, and
// has not been mounted and grown into the room that the header takes.
func (x *rotating) sameFilesystem(dev header.Device, h *header.Header) error {
	sb, err := x.plainFilesystem(dev)
	if err != nil {
		return err
	}
	if sb.UUID != h.Token.Filesystem.UUID {
		return fault.Newf(fault.FilesystemWrong, "%s holds another filesystem than a moment ago", dev.Path())
	}
	_, _, err = x.placeOver(dev, sb, false)
	return err
}

// stageAtEnd writes the filesystem's first bytes and the header area to the device's
// end, and proves the key from there.
func (x *rotating) stageAtEnd(ctx context.Context, h *header.Header, start header.Start, key source.Key, path string) (err error) {
	dev := x.c.Data
	release, err := x.kernel.KeepClaim(ctx, x.s, h.LUKS.UUID, dev)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := x.sameFilesystem(dev, h); err != nil {
		return err
	}
	first := make([]byte, start.Area)
	if _, err := dev.ReadAt(first, 0); err != nil {
		return fault.New(fault.IOFailed, "read "+path, err)
	}
	if _, err := dev.WriteAt(first, start.Saved); err != nil {
		return fault.New(fault.IOFailed, "write "+path, err)
	}
	staged := header.Window{Device: dev, Begin: start.Staged}
	if err := x.stage(ctx, h, staged, key, path); err != nil {
		return err
	}
	as := &header.Storage{Data: staged, Header: staged}
	there, err := header.Read(as)
	if err != nil {
		return fmt.Errorf("read the header back: %w", err)
	}
	if !there.Encrypting() {
		return fault.Newf(fault.HeaderInvalid, "the header that was read back does not record the encryption")
	}
	return x.proveOpens(ctx, x.s, there.Next, as)
}

// stage writes the header area as it will be, with the check of the key in it.
func (x *rotating) stage(ctx context.Context, h *header.Header, staged header.Device, key source.Key, path string) error {
	block, err := header.NewCheckBlock(x.sys.Rand, h.Next.Binding())
	if err != nil {
		return err
	}
	h.Next.Check.Digest = sha256.Sum256(block)
	if err := h.Store(); err != nil {
		return err
	}
	image, err := h.LUKS.Image()
	if err != nil {
		return err
	}
	if err := x.recordsOf(ctx, h, header.NewImage(image, int64(len(image))), path); err != nil {
		return err
	}
	if _, err := staged.WriteAt(image, 0); err != nil {
		return fault.New(fault.IOFailed, "write "+path, err)
	}
	if err := x.kernel.WriteThrough(ctx, x.s, h.Next, key, mapping.CheckArea(h.Next, staged), block); err != nil {
		return fmt.Errorf("write the check: %w", err)
	}
	if err := staged.Flush(); err != nil {
		return fault.New(fault.IOFailed, "flush "+path, err)
	}
	return nil
}

// writeStart calls begin for the device, opened exclusively, and then writes its start.
func (m *Manager) writeStart(path string, begin func(header.Device) (header.Start, error)) (err error) {
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	start, err := begin(dev)
	if err != nil {
		return err
	}
	if err := start.Finish(dev); err != nil {
		return fault.New(fault.IOFailed, "write the start of "+path, err)
	}
	return nil
}

// finishStart finishes writing the header of an encryption that was interrupted at that
// point. It opens no key: the key was proved before.
func (m *Manager) finishStart(s spec.Volume, path string, j *runLog) error {
	if err := m.writeStart(path, func(dev header.Device) (header.Start, error) {
		start, _, err := findStart(s, dev, false)
		return start, err
	}); err != nil {
		return err
	}
	j.did("header written to " + path)
	return nil
}

// findStart finds the start of a device that is not completely written, and checks that
// the header that is kept for it is the volume's. If back is true, the filesystem's bytes
// take the header's place.
func findStart(s spec.Volume, dev header.Device, back bool) (header.Start, *header.Header, error) {
	start, state, err := header.FindStart(dev)
	if err != nil {
		return start, nil, err
	}
	if state != header.StartBegun || start.Back != back {
		return start, nil, fault.Newf(fault.HeaderDamaged, "the start of %s was changed while it was to be written", dev.Path())
	}
	kept := header.Window{Device: dev, Begin: start.Staged}
	h, err := header.Read(&header.Storage{Data: kept, Header: kept})
	if err != nil {
		return start, nil, fmt.Errorf("read the header that is kept: %w", err)
	}
	if h.Encrypting() == back || h.Decrypting() != back {
		return start, nil, fault.Newf(fault.HeaderInvalid, "the header that is kept is not of what was interrupted")
	}
	k := h.KeySide()
	return start, h, h.MatchesRotating(s.For(k.Token.Source, k.Segment.Encryption))
}

// continueStart continues an encryption whose header is not completely on the device yet.
func (x *rotating) continueStart(ctx context.Context, path string) error {
	if err := x.finishStart(x.s, path, x.j); err != nil {
		return err
	}
	if err := x.reopen(path); err != nil {
		return err
	}
	return x.continueInPlace(ctx)
}

// openStarted opens the volume that the device has become.
func (x *rotating) openStarted(path string) error {
	if err := x.reopen(path); err != nil {
		return err
	}
	x.j.did("header written to " + path)
	x.remember(x.s, x.h.LUKS.UUID)
	return nil
}

func (x *rotating) reopen(path string) error {
	if err := x.c.Close(); err != nil {
		return err
	}
	if err := x.open(path); err != nil {
		return fmt.Errorf("read the header back: %w", err)
	}
	return nil
}

// endOnDevice is endEncryption for a header on the device: the check goes into the unused
// check area, and is proved as it is stored. All that the data has left behind is
// overwritten, since it is plaintext.
func (x *rotating) endOnDevice(ctx context.Context, h *header.Header, key source.Key) (*header.Header, error) {
	done := h.EndRotation()
	done.Check.Offset = h.Next.FreeCheckArea()
	if err := x.writeCheck(ctx, x.s, done, x.c.Header, key); err != nil {
		return nil, err
	}
	if err := x.proveOpens(ctx, x.s, done, x.c); err != nil {
		return nil, fmt.Errorf("the check, as it is stored: %w", err)
	}
	dev := x.c.Data
	// Up to the end of the device as it was then: what it has grown by since is not ours.
	end := min(dev.Size()/header.SectorBytes*header.SectorBytes, h.Moved+h.LUKS.Area()+2*header.BlockAlign)
	err := errors.Join(
		blockdev.Zero(ctx, dev, h.LUKS.Area(), h.Next.Segment.Offset),
		blockdev.Zero(ctx, dev, h.Moved, end),
		dev.Flush())
	if err != nil {
		return nil, fault.New(fault.IOFailed, "overwrite what the data has left on "+dev.Path(), err)
	}
	x.j.did("plain text overwritten")
	return done, nil
}
