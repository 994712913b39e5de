// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/spec"
)

// InUse is a volume in use, ready to be carried through a suspend: its device is open,
// its header is read, and the key under its mapping is proved.
type InUse struct {
	// Revived is set if the key under the mapping was lost or in doubt. It was loaded
	// again, or in a dry run would be.
	Revived  bool
	Warnings []string

	u *unlocking
	// key is the header of the key that the mapping has; nil during a rotation, which has
	// two keys, each in a mapping of its own.
	key   *header.Header
	sides []side
}

// side is one of the two mappings of a rotation.
type side struct {
	name string
	h    *header.Header
}

// OpenInUse opens a volume in use; it returns nil if the volume is not in use. The caller
// holds the volume's lock, except in a dry run. What a killed rotation holds is settled,
// since suspending would wait for it. The key under the mapping is proved or loaded
// again, since the next writeback uses it.
func (m *Manager) OpenInUse(ctx context.Context, s spec.Volume, dryRun bool) (_ *InUse, err error) {
	path, err := m.find(ctx, s, false)
	if err != nil {
		return nil, err
	}
	c, h, err := m.openHeader(s, path, blockdev.Flags{Direct: true})
	if err != nil {
		return nil, err
	}
	u := &unlocking{Manager: m, s: s, o: UnlockOptions{DryRun: dryRun}, j: m.begin(s, nil), c: c, h: h, revives: true}
	v := &InUse{u: u}
	open := false
	if err = m.mayOpen(s, h, u.j); err == nil {
		open, err = u.alreadyOpen(ctx)
	}
	if err == nil && open {
		err = v.findKeys()
	}
	if err != nil || !open {
		return nil, errors.Join(err, c.Close())
	}
	v.Revived, v.Warnings = u.revived, u.j.result.Warnings
	return v, nil
}

// Close closes the device and the header. The volume stays as it is.
func (v *InUse) Close() error { return v.u.c.Close() }

// findKeys finds which keys are under the volume now.
func (v *InUse) findKeys() error {
	u := v.u
	if u.h.Next == nil {
		v.key = u.h
		return nil
	}
	live, err := u.sys.Mapper.Table(u.s.Mapping)
	if err != nil {
		return err
	}
	if len(live) == 1 {
		if crypt, ok := live[0].(dmcrypt.Crypt); ok {
			v.key = u.h
			if crypt.Key.Description == mapping.Description(u.h.Next) {
				v.key = u.h.Next
			}
			return nil
		}
	}
	v.sides = u.sides()
	return nil
}

// sides returns the two mappings of a rotation in use.
func (u *unlocking) sides() []side {
	return []side{{u.s.Mapping + mapping.OldSuffix, u.h}, {u.s.Mapping + mapping.NewSuffix, u.h.Next}}
}

// HeaderOn returns the device that the header is on, which is read when the volume wakes.
func (v *InUse) HeaderOn() blockdev.Number { return v.u.c.Header.On() }

// HasBlackKey reports whether one of the volume's keys is a black key.
func (v *InUse) HasBlackKey() bool {
	return slices.ContainsFunc(v.under(), func(x side) bool { return x.h.Token.Source == spec.SourceCAAM })
}

// Source returns the source of the volume's key; during a rotation, of the older one.
func (v *InUse) Source() string { return v.under()[0].h.Token.Source }

// Rotating reports whether the volume is under two keys.
func (v *InUse) Rotating() bool { return v.key == nil }

// under returns the mappings with the volume's keys.
func (v *InUse) under() []side {
	if v.key != nil {
		return []side{{v.u.s.Mapping, v.key}}
	}
	return v.sides
}

// Prove opens each key and proves it, beside the live mapping.
func (v *InUse) Prove(ctx context.Context) error {
	for _, x := range v.under() {
		if err := v.u.proveOpens(ctx, v.u.s, x.h, v.u.c); err != nil {
			return err
		}
	}
	return nil
}

// Suspend freezes the volume's filesystem and waits for requests in flight. The sides of
// a rotation are then idle; they are suspended too, to show that their keys must be
// proved before they are used.
func (v *InUse) Suspend(ctx context.Context) error {
	if err := v.u.sys.Mapper.Suspend(ctx, v.u.s.Mapping, 0); err != nil {
		return err
	}
	for _, x := range v.sides {
		if err := v.u.sys.Mapper.Suspend(ctx, x.name, mapping.Quietly); err != nil {
			return errors.Join(err, v.Resume())
		}
	}
	return nil
}

// Resume lets the volume continue with the keys that it has.
func (v *InUse) Resume() error {
	for _, x := range v.sides {
		if err := v.u.sys.Mapper.Resume(x.name, dmcrypt.Private, mapping.Quietly); err != nil {
			return err
		}
	}
	return v.u.sys.Mapper.Resume(v.u.s.Mapping, dmcrypt.Public, mapping.Quietly)
}

// Right after a sleep, the coprocessor or the storage may need another moment.
const (
	wakeTries = 3
	wakePause = 50 * time.Millisecond
	// wakePatience is how long one volume may take. A read that never returns must
	// not keep the rest of the system frozen.
	wakePatience = time.Minute
)

// Wake resumes the suspended volume; with newKeys only after its keys have been opened
// again, proved and loaded. No request passes through it before that. If that takes too
// long, it is given up, and neither loads nor resumes anything afterwards.
func (v *InUse) Wake(ctx context.Context, newKeys bool) error {
	return v.wake(ctx, newKeys, wakePatience)
}

func (v *InUse) wake(ctx context.Context, newKeys bool, patience time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Whichever comes first decides: the resume, or the end of patience.
	const waiting, resuming, givenUp = 0, 1, 2
	var state atomic.Int32
	resume := func() error {
		if !state.CompareAndSwap(waiting, resuming) {
			return context.Canceled
		}
		err := v.Resume()
		if err != nil {
			state.CompareAndSwap(resuming, waiting) // it may be tried again
		}
		return err
	}
	done := make(chan error, 1)
	go func() {
		if !newKeys {
			done <- resume()
			return
		}
		var err error
		for try := range wakeTries {
			if try > 0 {
				time.Sleep(wakePause)
			}
			if err = v.loadKeys(ctx); err == nil {
				err = resume()
			}
			if err == nil || ctx.Err() != nil {
				break
			}
		}
		done <- err
	}()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		state.Store(givenUp)
		return fault.Newf(fault.IOFailed, "no answer within %v", patience)
	}
}

func (v *InUse) loadKeys(ctx context.Context) error {
	for _, x := range v.under() {
		if err := v.u.loadProved(ctx, x.name, x.h, nil); err != nil {
			return err
		}
	}
	return nil
}

// RecordProof records that the volume's keys were proved. slept was read before that.
func (v *InUse) RecordProof(slept Slept) { v.u.recordProof(v.u.s, v.u.h.LUKS.UUID, slept) }
