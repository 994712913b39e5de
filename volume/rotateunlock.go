// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/spec"
)

// rotationFlags returns the flags for what a rotation works on. The rotation flushes what
// must be durable itself, including records and headers: the kernel would flush after
// each write, and the data takes many.
func rotationFlags(write bool) blockdev.Flags {
	return blockdev.Flags{Write: write, Direct: true, Cached: write}
}

// withEngine runs use with an engine over the stack's mappings. c is open for
// writing.
func (m *Manager) withEngine(k *mapping.Stack, h *header.Header, c *header.Storage, adjust func(*reencrypt.Options), use func(*reencrypt.Engine) error) (err error) {
	b, err := h.RotationBinding(h.Next.Token.Generation)
	if err != nil {
		return err
	}
	old, err := m.sys.Devices.Open(mapping.Node(k.Old), rotationFlags(false))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	next, err := m.sys.Devices.Open(mapping.Node(k.New), rotationFlags(true))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, next.Close()) }()
	o := reencrypt.Options{
		Layout: k.Layout, Binding: b, CachedMeta: c.Detached(), Now: m.sys.Now,
		Views: reencrypt.Views{Old: old, New: next, Raw: c.Data, Meta: c.Header},
	}
	if adjust != nil {
		adjust(&o)
	}
	e, err := reencrypt.NewEngine(o)
	if err != nil {
		return err
	}
	return use(e)
}

// alreadyOpenRotating is alreadyOpen for a volume with two keys. The volume is still, or
// again, one crypt mapping, or it is over the overlay. What a killed rotation left
// suspended is resumed.
func (u *unlocking) alreadyOpenRotating(ctx context.Context, info dmcrypt.Info, live dmcrypt.Table) (bool, error) {
	k, err := u.kernel.NewStack(u.s, u.h, u.c)
	if err != nil {
		return false, err
	}
	over, err := k.Look(mapping.OverlaySuffix)
	if err != nil {
		return false, err
	}
	if len(live) == 1 && live[0].Kind() == (dmcrypt.Linear{}).Kind() || live.IsCut() && over.Live {
		if err := k.Attach(); err != nil {
			return false, err
		}
		if !k.IsTop(live) && !live.IsCut() {
			return false, fault.Newf(fault.MappingMismatch, "mapping %s is live over something that is not its rotation", u.s.Mapping)
		}
		return true, u.alreadyOpenOver(ctx, k, info, live)
	}
	r, err := u.h.RotationRecord(u.c)
	if err != nil {
		return false, err
	}
	one := *u
	switch {
	case r.Untouched() && !u.h.InPlaintext():
	case r.Phase == reencrypt.Finished && !u.h.Decrypting():
		one.h = u.h.Next
	default:
		return false, fault.Newf(fault.MappingMismatch, "mapping %s is live with one key, and the data is under two", u.s.Mapping)
	}
	wanted, err := one.wantedTable(live)
	if err != nil {
		return false, err
	}
	if differences := dmcrypt.Compare(info, live, info.UUID, wanted, u.c.Data.ReadOnly()); len(differences) > 0 && !(live.IsCut() && sameExtent(live, wanted)) {
		return false, fault.Newf(fault.MappingMismatch, "mapping %s is live with another table: %s", u.s.Mapping, strings.Join(differences, "; "))
	}
	if err := u.proveLive(ctx, info, dmcrypt.Public, side{u.s.Mapping, one.h}); err != nil || u.o.DryRun {
		return err == nil, err
	}
	// A table that was loaded and never used keeps the overlay busy.
	if err := u.sys.Mapper.Clear(u.s.Mapping); err != nil || !info.Suspended {
		return true, err
	}
	// It was suspended in the middle of a swap, or for a sleep in which its key was lost.
	switch {
	case u.revives:
	case !info.Inactive || u.sleptSince(u.s, info):
		return true, nil
	default: // in a swap: the key is unchanged
		return true, u.sys.Mapper.Resume(u.s.Mapping, dmcrypt.Public, mapping.Quietly)
	}
	return true, one.resumeProved(ctx)
}

// alreadyOpenOver is alreadyOpenRotating for a volume over the overlay.
func (u *unlocking) alreadyOpenOver(ctx context.Context, k *mapping.Stack, info dmcrypt.Info, live dmcrypt.Table) error {
	woken, slept := false, u.sys.Slept()
	if !u.o.DryRun {
		var err error
		if woken, err = u.resumeSides(ctx); err != nil || !u.revives && woken {
			return err
		}
	}
	if woken {
		u.woken = true
		u.recordProof(u.s, u.h.LUKS.UUID, slept)
	}
	if !woken || live.IsCut() {
		if err := u.proveLive(ctx, info, dmcrypt.Private, u.sides()...); err != nil || u.o.DryRun {
			return err
		}
	}
	if live.IsCut() {
		if err := u.sys.Mapper.Swap(ctx, u.s.Mapping, k.WholeTable(k.Overlay), k.ReadOnly, dmcrypt.Public, mapping.Quietly); err != nil {
			return err
		}
	}
	return u.settle(ctx, k, info)
}

// resumeSides proves again the keys of a rotation whose mappings are suspended, as they
// are if that failed after a sleep. woken reports whether both were suspended.
func (u *unlocking) resumeSides(ctx context.Context) (woken bool, err error) {
	woken = true
	for _, x := range u.sides() {
		info, err := u.sys.Mapper.Info(x.name)
		if err != nil {
			return false, err
		}
		if !info.Suspended {
			woken = false
			continue
		}
		if !u.revives {
			return true, nil // only with a key that is proved again
		}
		if err := u.loadProved(ctx, x.name, x.h, nil); err != nil {
			return false, err
		}
		if err := u.sys.Mapper.Resume(x.name, dmcrypt.Private, mapping.Quietly); err != nil {
			return false, errors.Join(err, u.sys.Mapper.Clear(x.name))
		}
		u.j.did("key proved, suspended mapping " + x.name + " resumed")
	}
	return woken, nil
}

// settle finishes the zone of a killed rotation, whether it is still held, or was cut off
// after its keys were lost, and removes the hot mappings.
func (u *unlocking) settle(ctx context.Context, k *mapping.Stack, top dmcrypt.Info) error {
	over, err := k.Look(mapping.OverlaySuffix)
	if err != nil {
		return err
	}
	if k.Hot == [2]dmcrypt.Number{} && !over.Suspended && !top.Suspended {
		return nil
	}
	held, err := k.HotSuspended()
	if err != nil {
		return err
	}
	c, err := u.openContainer(u.s, u.c.Data.Path(), rotationFlags(true))
	if err != nil {
		return err
	}
	err = u.settleHeld(ctx, k, u.h, c)
	if err = errors.Join(err, c.Close()); err != nil {
		return err
	}
	if held || over.Suspended || top.Suspended {
		u.sys.Log.Warn("a zone that a killed rotation held continues", "volume", u.s.Name)
	}
	u.j.did("held zone settled")
	return nil
}

// settleAbandoned is settleLive for a caller without the lock. If another process holds
// the lock, it is a rotation that holds its zone for a moment, or a command that settles
// the zone.
func (m *Manager) settleAbandoned(ctx context.Context, s spec.Volume) (err error) {
	if held, err := m.kernel.Holds(s); err != nil || !held {
		return err
	}
	release, err := m.sys.Locks.Acquire(ctx, s.Name)
	if fault.Is(err, fault.LockHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return m.settleLive(ctx, s, m.begin(s, nil))
}

// settleLive settles a held zone for commands that do not open the volume. It opens no
// key: what a sleep suspended stays suspended. Without a live rotation it does nothing.
// The caller holds the volume's lock.
func (m *Manager) settleLive(ctx context.Context, s spec.Volume, j *runLog) error {
	if held, err := m.kernel.Holds(s); err != nil || !held {
		return err
	}
	path, err := m.find(ctx, s, false)
	if err != nil {
		return err
	}
	c, err := m.openContainer(s, path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.Close()
	h, err := header.Read(c)
	if err != nil || h.Next == nil {
		return err
	}
	_, err = (&unlocking{Manager: m, s: s, j: j, c: c, h: h}).alreadyOpen(ctx)
	return err
}

// openRotating is open for a volume whose data is under two keys. done is false if all of
// it is under one key. Then u.h becomes the header of that key, and the ordinary way is
// right.
func (u *unlocking) openRotating(ctx context.Context) (done bool, err error) {
	r, err := u.h.RotationRecord(u.c)
	switch {
	case err != nil:
		return false, err
	case r.Untouched() && !u.h.InPlaintext():
		return false, u.makeDurable(r)
	case r.Phase == reencrypt.Finished && !u.h.Decrypting():
		err := u.makeDurable(r)
		u.h = u.h.Next
		return false, err
	}
	k, err := u.kernel.NewStack(u.s, u.h, u.c)
	if err != nil {
		return false, err
	}
	old, err := u.openProved(ctx, u.s, u.h, u.c, nil)
	if err != nil {
		return false, err
	}
	defer old.Wipe()
	next, err := u.openProved(ctx, u.s, u.h.Next, u.c, nil)
	if err != nil {
		return false, err
	}
	defer next.Wipe()
	u.j.did("keys opened and proved by their checks")
	if err := k.Build(ctx, u.h, u.c, old, next); err != nil {
		return false, err
	}
	if err := u.openOver(ctx, k, r); err != nil {
		return false, errors.Join(err, k.Remove(ctx))
	}
	return true, nil
}

// settleHeld settles the zone that a killed run may have held.
func (m *Manager) settleHeld(ctx context.Context, k *mapping.Stack, h *header.Header, c *header.Storage) error {
	r, err := h.RotationRecord(c)
	if err == nil {
		err = notBehind(k, c, r)
	}
	if err != nil {
		return err
	}
	return m.withEngine(k, h, c, nil, func(e *reencrypt.Engine) error { return k.Settle(ctx, e) })
}

// notBehind refuses the record in an old copy of a header, if the data that is next to be
// moved shows its age: what the record has not seen moved would be moved, or written
// back, a second time, and lost.
func notBehind(k *mapping.Stack, c *header.Storage, r reencrypt.Record) error {
	if seen := k.SeeAhead(c, r); seen.Proved {
		return fault.Newf(fault.HeaderRolledBack, "the record of the rotation says that %d of %d bytes are under the new key, but so is the block at byte %d of the volume: the header in %s is an old copy; put the latest one back", r.Done(), r.DataSize, seen.At, c.Header.Path())
	}
	return nil
}

// openOver makes the volume's mapping over the mappings of both sides.
func (u *unlocking) openOver(ctx context.Context, k *mapping.Stack, r reencrypt.Record) error {
	if err := notBehind(k, u.c, r); err != nil {
		return err
	}
	r, err := u.recoverRecord(ctx, k, r)
	if err != nil {
		return err
	}
	u.j.did(fmt.Sprintf("rotation found at %d of %d bytes", r.Done(), r.DataSize))
	if err := k.BuildOverlay(ctx, r); err != nil {
		return err
	}
	uuid := dmcrypt.VolumeUUID(u.h.LUKS.UUID, u.s.Mapping)
	if err := u.kernel.RemoveLeftover(ctx, u.s.Mapping, uuid); err != nil {
		return err
	}
	n, err := u.sys.Mapper.Activate(ctx, u.s.Mapping, uuid, k.WholeTable(k.Overlay), k.ReadOnly)
	if err != nil {
		return err
	}
	a := &mapping.Private{K: u.kernel, Name: u.s.Mapping, Num: n}
	if want := u.h.Token.Filesystem.Type; want != "" && u.s.Filesystem.ProvesKey() && !u.o.ForRepair {
		proved, seen := mapping.ProveByFilesystem(u.s, u.h, a)
		switch {
		case (u.h.Encrypting() || u.h.Decrypting()) && !u.h.FilesystemSeen():
			// No key shows whose the plain text is, so the filesystem must be the one on
			// record.
			err = u.seenInPlace(seen)
		case !proved || want != u.s.Filesystem.Type:
			err = u.otherFilesystem(ctx, a)
		}
	}
	if err == nil {
		err = u.sys.Mapper.Announce(ctx, u.s.Mapping)
	}
	if err != nil {
		return errors.Join(err, a.Remove(ctx))
	}
	u.j.did("mapping announced")
	return nil
}

// seenInPlace explains why a volume that is partly in plain text does not show the
// filesystem on record.
func (u *unlocking) seenInPlace(seen error) error {
	if u.c.Detached() {
		return u.seenDetached(seen)
	}
	want := u.h.Token.Filesystem
	return fault.New(fault.FilesystemMissing, fmt.Sprintf("the volume does not show the %s filesystem %s that it is being made of", want.Type, want.UUID), seen)
}

// makeDurable makes the record durable that the volume is opened by: a killed run may
// have left a record in a file in the page cache only.
func (u *unlocking) makeDurable(r reencrypt.Record) error {
	if !u.c.Detached() || u.c.Data.ReadOnly() {
		return nil
	}
	c, err := u.openContainer(u.s, u.c.Data.Path(), rotationFlags(true))
	if errors.Is(err, unix.EROFS) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(r.WriteAgain(c.Header, header.RotationRecordOffset), c.Close())
}

// recoverRecord settles the interrupted zone. On a read-only device only a zone that
// needs no settling can be used.
func (u *unlocking) recoverRecord(ctx context.Context, k *mapping.Stack, r reencrypt.Record) (reencrypt.Record, error) {
	if u.c.Data.ReadOnly() {
		if r.Phase == reencrypt.Journaled {
			return r, fault.Newf(fault.DeviceReadOnly, "the rotation was cut off in a zone that must be written back, and %s is read-only", u.c.Data.Path())
		}
		return r, nil
	}
	c, err := u.openContainer(u.s, u.c.Data.Path(), rotationFlags(true))
	if u.c.Detached() && errors.Is(err, unix.EROFS) {
		if r.Phase == reencrypt.Journaled {
			return r, fault.New(fault.DeviceReadOnly, fmt.Sprintf("the rotation was cut off in a zone that must be written back, and %s lies on a filesystem that is read-only", u.s.Header), err)
		}
		return r, nil
	}
	if err != nil {
		return r, err
	}
	err = u.withEngine(k, u.h, c, nil, func(e *reencrypt.Engine) error {
		r, err = e.Recover(ctx)
		return err
	})
	return r, errors.Join(err, c.Close())
}
