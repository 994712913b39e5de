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
)

// openProved opens a key and proves it.
func (m *Manager) openProved(ctx context.Context, s Spec, h *header, c *container) (liveKey, error) {
	key, err := m.openKey(ctx, s, h)
	if err != nil {
		return nil, err
	}
	if err := m.proveKey(ctx, s, h, c, key); err != nil {
		key.wipe()
		return nil, err
	}
	return key, nil
}

// rotationFlags open what a rotation works on. What must be durable it flushes
// itself, records and headers, too: the kernel would after each write, and of the
// data there are many.
func rotationFlags(write bool) blockdev.Flags {
	return blockdev.Flags{Write: write, Direct: true, Cached: write}
}

// withEngine runs use with an engine over the stack's mappings. c is open for
// writing.
func (m *Manager) withEngine(k *stack, h *header, c *container, adjust func(*reencrypt.Options), use func(*reencrypt.Engine) error) (err error) {
	b, err := h.rotationBinding(h.next.token.Generation)
	if err != nil {
		return err
	}
	old, err := m.sys.Devices.Open(node(k.old), rotationFlags(false))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	next, err := m.sys.Devices.Open(node(k.new), rotationFlags(true))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, next.Close()) }()
	o := reencrypt.Options{
		Layout: k.layout, Binding: b, Now: m.sys.Now,
		Views: reencrypt.Views{Old: old, New: next, Raw: c.data, Meta: c.header},
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

// node is the kernel's own name of a mapped device.
func node(n dmcrypt.Number) string { return fmt.Sprintf("/dev/dm-%d", n.Minor) }

// alreadyOpenRotating is alreadyOpen for a volume with two keys. It is one
// crypt mapping still, or again, or lies over the overlay; then what a killed
// rotation left suspended goes on.
func (u *unlocking) alreadyOpenRotating(ctx context.Context, info dmcrypt.Info, live dmcrypt.Table) (bool, error) {
	k, err := u.newStack(u.s, u.h, u.c)
	if err != nil {
		return false, err
	}
	if len(live) == 1 && live[0].Kind() == (dmcrypt.Linear{}).Kind() {
		if err := k.attach(); err != nil {
			return false, err
		}
		if !k.isTop(live) {
			return false, refuse(fault.MappingMismatch, "mapping %s is live over something that is not its rotation", u.s.Mapping)
		}
		if u.o.DryRun {
			return true, nil
		}
		if err := u.wakeSides(ctx); err != nil {
			return false, err
		}
		return true, u.settle(ctx, k, info)
	}
	r, err := u.h.rotationRecord(u.c)
	if err != nil {
		return false, err
	}
	side := *u
	switch {
	case r.Untouched():
	case r.Phase == reencrypt.Finished:
		side.h = u.h.next
	default:
		return false, refuse(fault.MappingMismatch, "mapping %s is live with one key, and the data is under two", u.s.Mapping)
	}
	wanted, err := side.wantedTable(live)
	if err != nil {
		return false, err
	}
	if differences := dmcrypt.Compare(info, live, info.UUID, wanted, u.c.data.ReadOnly()); len(differences) > 0 {
		return false, refuse(fault.MappingMismatch, "mapping %s is live with another table: %s", u.s.Mapping, strings.Join(differences, "; "))
	}
	if u.o.DryRun {
		return true, nil
	}
	// A table that was loaded and never used keeps the overlay busy.
	if err := u.sys.Mapper.Clear(u.s.Mapping); err != nil || !info.Suspended {
		return true, err
	}
	// Suspended in the middle of a swap, or for a sleep in which its key was lost.
	return true, side.wake(ctx)
}

// settle finishes the zone that a killed rotation holds, if it holds one.
func (u *unlocking) settle(ctx context.Context, k *stack, top dmcrypt.Info) error {
	suspended := top.Suspended
	for _, suffix := range []string{overlaySuffix, hotSuffix} {
		info, err := k.look(suffix)
		if err != nil {
			return err
		}
		suspended = suspended || info.Suspended
	}
	if !suspended {
		return nil
	}
	c, err := u.openContainer(u.s, u.c.data.Path(), rotationFlags(true))
	if err != nil {
		return err
	}
	err = u.withEngine(k, u.h, c, nil, func(e *reencrypt.Engine) error { return k.settle(ctx, e) })
	if err = errors.Join(err, c.close()); err != nil {
		return err
	}
	u.sys.Log.Warn("a zone that a killed rotation held goes on", "volume", u.s.Name)
	u.j.did("held zone settled")
	return nil
}

// holds tells whether some of a volume under rotation is suspended.
func (m *Manager) holds(s Spec) (bool, error) {
	over, err := m.sys.Mapper.Info(s.Mapping + overlaySuffix)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	top, err := m.sys.Mapper.Info(s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return false, nil // nobody can wait for what is not there
	}
	if err != nil {
		return false, err
	}
	hot, err := m.sys.Mapper.Info(s.Mapping + hotSuffix)
	if err != nil && !errors.Is(err, dmcrypt.ErrNotFound) {
		return false, err
	}
	return top.Suspended || over.Suspended || hot.Suspended, nil
}

// settleAbandoned is settleLive for who has no lock. Whoever has it is a
// rotation that holds its zone for a moment, or a command that settles it.
func (m *Manager) settleAbandoned(ctx context.Context, s Spec) (err error) {
	if held, err := m.holds(s); err != nil || !held {
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

// settleLive does that for commands that do not open the volume. It needs no
// key; without a live rotation it does nothing. The volume's lock is held.
func (m *Manager) settleLive(ctx context.Context, s Spec, j *journey) error {
	if held, err := m.holds(s); err != nil || !held {
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
	defer c.close()
	h, err := readHeader(c)
	if err != nil || h.next == nil {
		return err
	}
	_, err = (&unlocking{Manager: m, s: s, j: j, c: c, h: h}).alreadyOpen(ctx)
	return err
}

// openRotating is open for a volume whose data is under two keys. done is false
// if all of it is under one, which u.h then is: the ordinary way is the right
// one.
func (u *unlocking) openRotating(ctx context.Context) (done bool, err error) {
	r, err := u.h.rotationRecord(u.c)
	switch {
	case err != nil:
		return false, err
	case r.Untouched():
		return false, nil
	case r.Phase == reencrypt.Finished:
		u.h = u.h.next
		return false, nil
	}
	k, err := u.newStack(u.s, u.h, u.c)
	if err != nil {
		return false, err
	}
	old, err := u.openProved(ctx, u.s, u.h, u.c)
	if err != nil {
		return false, err
	}
	defer old.wipe()
	next, err := u.openProved(ctx, u.s, u.h.next, u.c)
	if err != nil {
		return false, err
	}
	defer next.wipe()
	u.j.did("both keys opened and proved by their checks")
	if err := k.build(ctx, u.h, u.c, old, next); err != nil {
		return false, err
	}
	if err := u.openOver(ctx, k, r); err != nil {
		return false, errors.Join(err, k.remove(ctx))
	}
	return true, nil
}

// openOver makes the volume over the mappings of both sides.
func (u *unlocking) openOver(ctx context.Context, k *stack, r reencrypt.Record) error {
	r, err := u.recoverRecord(ctx, k, r)
	if err != nil {
		return err
	}
	u.j.did(fmt.Sprintf("rotation found at %d of %d bytes", r.Done(), r.DataSize))
	if err := k.buildOverlay(ctx, r); err != nil {
		return err
	}
	uuid := dmcrypt.VolumeUUID(u.h.luks.UUID, u.s.Mapping)
	if err := u.removeLeftover(ctx, u.s.Mapping, uuid); err != nil {
		return err
	}
	n, err := u.sys.Mapper.Activate(ctx, u.s.Mapping, uuid, k.whole(k.overlay), k.readOnly)
	if err != nil {
		return err
	}
	a := &mapped{m: u.Manager, name: u.s.Mapping, num: n}
	if want := u.h.token.Filesystem.Type; want != "" && u.s.Filesystem.Type != FilesystemNone && !u.o.ForRepair {
		if proved, _ := u.h.proveByFilesystem(a); !proved || want != u.s.Filesystem.Type {
			err = u.otherFilesystem(a)
		}
	}
	if err == nil {
		err = u.sys.Mapper.Announce(ctx, u.s.Mapping)
	}
	if err != nil {
		return errors.Join(err, a.remove(ctx))
	}
	u.j.did("mapping announced")
	return nil
}

// recoverRecord settles the zone that was interrupted. On a device that cannot
// be written only a zone that needs no settling can be used.
func (u *unlocking) recoverRecord(ctx context.Context, k *stack, r reencrypt.Record) (reencrypt.Record, error) {
	if u.c.data.ReadOnly() {
		if r.Phase == reencrypt.Journaled {
			return r, refuse(fault.DeviceReadOnly, "the rotation was cut off in a zone that must be written back, and %s is read-only", u.c.data.Path())
		}
		return r, nil
	}
	c, err := u.openContainer(u.s, u.c.data.Path(), rotationFlags(true))
	if u.c.detached() && errors.Is(err, unix.EROFS) {
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
	return r, errors.Join(err, c.close())
}
