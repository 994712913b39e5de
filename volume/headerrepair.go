// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/luks2"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// RepairOptions change how a header is repaired.
type RepairOptions struct {
	// Keep is the file to keep the replaced header in; empty for one in the state
	// directory.
	Keep   string
	DryRun bool
	// Progress is called for each step when it is done.
	Progress func(Step)
}

// RepairHeader repairs a volume's damaged header from what is there: one good copy, or
// two damaged copies that complete each other. Unlock and Provision repair the former by
// themselves once they have proved the key; the latter is done only on request. Either
// way, every key that the repaired header names must first open on this chip and be
// proved. A header that no single copy had is written only after what is there is kept in
// a file. The volume may be in use. If the repair is interrupted, the same command
// finishes it. If there is nothing to repair and the volume is in use, kept headers in
// the state directory that are no longer needed are destroyed.
func (m *Manager) RepairHeader(ctx context.Context, s spec.Volume, o RepairOptions) (Result, error) {
	j := m.begin(s, o.Progress)
	err := m.onDevice(ctx, s, func(path string) (err error) {
		r := &repairing{Manager: m, s: s, o: o, j: j}
		if r.c, err = m.openContainer(s, path, blockdev.Flags{Direct: true, Write: !o.DryRun}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.c.Close()) }()
		return r.repair(ctx, path)
	})
	return j.result, Failed(ctx, "header repair", s, err)
}

// repairing is one run on one volume.
type repairing struct {
	*Manager
	s spec.Volume
	o RepairOptions
	j *runLog
	c *header.Storage
	h *header.Header
	// whole is the header completed from two damaged copies; nil if one copy is good.
	whole *luks2.Completed
}

func (r *repairing) repair(ctx context.Context, path string) error {
	// The storage as it will be once the header is repaired.
	as := r.c
	var err error
	if r.h, err = header.Read(r.c); err != nil {
		if as, err = r.complete(err); err != nil {
			return err
		}
	}
	r.j.identify(r.h, path)
	if err := r.mayOpen(r.s, r.h, r.j); err != nil {
		return err
	}
	if r.h.Copies.Intact() && r.whole == nil {
		r.j.result.Already = true
		return r.dropKept(ctx)
	}
	if err := r.requireNothingElse(); err != nil {
		return err
	}
	if _, err := r.kernel.UsedBeside(r.s, r.h.LUKS.UUID, r.c.Data, true); err != nil {
		return err
	}
	if !r.o.DryRun {
		release, err := r.kernel.LockHeader(ctx, r.s, r.h.LUKS.UUID)
		if err != nil {
			return err
		}
		defer func() { _ = release() }() // nothing was written by it
	}
	if err := r.prove(ctx, as); err != nil {
		if r.whole != nil && !r.whole.Checksummed && ctx.Err() == nil {
			err = fault.New(fault.HeaderDamaged, "no checksum fits, and what both copies of the header say is not proved", err)
		}
		return fmt.Errorf("nothing was changed: %w", err)
	}
	if r.whole != nil && !r.whole.Checksummed {
		r.j.warn("neither copy of the header fits its checksum: what both say is taken, and its key is proved")
	}
	if r.o.DryRun {
		return r.announceSteps()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := r.write(); err != nil {
		return err
	}
	r.j.did("header repaired")
	if err := r.readBack(); err != nil {
		return err
	}
	r.j.keeps(r.o.Keep)
	return nil
}

// complete assembles the header from two damaged copies. It returns the storage as it
// will be. err is why neither copy can be used.
func (r *repairing) complete(err error) (*header.Storage, error) {
	if !fault.Is(err, fault.HeaderDamaged) && !fault.Is(err, fault.NotProvisioned) {
		return nil, err
	}
	whole, notWhole := luks2.Complete(unreadableAsZeros{r.c.Header}, r.c.Header.Size())
	if notWhole != nil || whole == nil {
		return nil, fmt.Errorf("the copies do not complete each other: %w", err)
	}
	with := &completed{r.c.Header, whole.Image}
	as := &header.Storage{Data: r.c.Data, Header: with}
	if !r.c.Detached() {
		as.Data = with
	}
	h, badly := header.FindHeader(as)
	if badly != nil && !whole.Checksummed {
		// Both copies are wrong in the same way.
		return nil, fmt.Errorf("the copies do not complete each other: %w", err)
	}
	if badly != nil {
		return nil, badly
	}
	r.h, r.whole = h, whole
	r.j.did("header completed from both copies")
	return as, nil
}

// completed is a device as it will be once the header copies at its start are repaired.
type completed struct {
	header.Device
	image []byte
}

func (c *completed) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) <= int64(len(c.image)) {
		return copy(p, c.image[off:]), nil
	}
	n, err := c.Device.ReadAt(p, off)
	if off < int64(len(c.image)) {
		copy(p[:n], c.image[off:])
	}
	return n, err
}

// unreadableAsZeros reads zeros where the device cannot be read: the other copy may have
// what is lost.
type unreadableAsZeros struct{ header.Device }

func (d unreadableAsZeros) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Device.ReadAt(p, off)
	if n == len(p) {
		return n, err
	}
	for at := 0; at < len(p); at += header.SectorBytes {
		block := p[at:min(at+header.SectorBytes, len(p))]
		if n, err := d.Device.ReadAt(block, off+int64(at)); n < len(block) && err != nil {
			clear(block)
		}
	}
	return len(p), nil
}

// requireNothingElse refuses to overwrite a filesystem that was made where the header
// was. What only looks like one, and does not prove itself, is damage.
func (r *repairing) requireNothingElse() error {
	dev := r.c.Header
	sb, err := fsprobe.Read(dev, dev.Size())
	if err != nil || !sb.Verified {
		return nil
	}
	return fault.Newf(fault.ForeignHeader, "%s holds an unencrypted %s, made over the volume's header", dev.Path(), sb.Type)
}

// prove opens and proves every key that the header names.
func (r *repairing) prove(ctx context.Context, as *header.Storage) error {
	for h := r.h; h != nil; h = h.Next {
		key, err := r.openKey(ctx, r.s, h)
		if err != nil {
			return err
		}
		err = r.proveKey(ctx, r.s, h, as, key)
		if fault.Is(err, fault.KeyWrong) && h.Check.InHeader() && r.h.Next == nil && r.h.Token.Filesystem.Type != "" {
			// The check may be damaged, too: then the filesystem decides.
			if seen := r.verifyByFilesystem(ctx, r.s, h, as, key); seen == nil {
				err = nil
			}
		}
		key.Wipe()
		if err != nil {
			return err
		}
	}
	r.j.did("key proved")
	if r.h.Next == nil {
		return nil
	}
	// Without its record there is no knowing which data is under which key.
	_, err := r.h.RotationRecord(as)
	return err
}

func (r *repairing) announceSteps() error {
	if r.whole == nil {
		r.j.would("write the damaged copy of the header again from the good one")
		return nil
	}
	area, err := r.area()
	if err != nil {
		return err
	}
	r.j.would("keep what is there in " + keptPath(r.s, r.o.Keep, area))
	r.j.would("write both copies of the header, each with what the other has lost")
	return nil
}

// area reads the header area as it is.
func (r *repairing) area() ([]byte, error) {
	area := make([]byte, min(r.h.LUKS.Area(), r.c.Header.Size()))
	if _, err := (unreadableAsZeros{r.c.Header}).ReadAt(area, 0); err != nil {
		return nil, fault.New(fault.IOFailed, "read "+r.c.Header.Path(), err)
	}
	return area, nil
}

func (r *repairing) write() error {
	if oneGood := r.whole == nil && !r.h.Copies.Conflict; oneGood {
		_, err := luks2.Repair(r.c.Header)
		if !fault.Is(err, fault.HeaderCopyDamaged) {
			return err
		}
		// What is there is not a filesystem: nothingElse would have seen it.
	}
	area, err := r.area()
	if err != nil {
		return err
	}
	if r.j.result.Kept, err = r.keepArea(r.s, r.o.Keep, area); err != nil {
		return err
	}
	if r.whole != nil {
		return r.whole.Write(r.c.Header)
	}
	_, err = luks2.RepairOver(r.c.Header)
	return err
}

// readBack compares what is there now with what was proved.
func (r *repairing) readBack() error {
	h, err := header.Read(r.c)
	if err != nil {
		return err
	}
	if !h.Copies.Intact() || h.LUKS.UUID != r.h.LUKS.UUID || h.LUKS.Label != r.h.LUKS.Label || !reflect.DeepEqual(h.LUKS.Metadata, r.h.LUKS.Metadata) {
		return fault.Newf(fault.IOFailed, "%s does not read back as it was written", r.c.Header.Path())
	}
	r.j.did("header read back")
	return nil
}
