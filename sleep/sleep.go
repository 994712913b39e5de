// SPDX-License-Identifier: Apache-2.0

// Package sleep takes a system through suspend-to-RAM with its volumes in use.
package sleep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

// Machine carries a system through suspend-to-RAM.
type Machine interface {
	// Freeze stops every process but this one and returns when all have stopped. After an
	// error all of them continue.
	Freeze(ctx context.Context) error
	// Thaw lets them continue. It is called once after a successful Freeze.
	Thaw() error
	// Sync writes back what the filesystems hold.
	Sync()
	// Sleep suspends to RAM and returns when the system is awake again, or with the
	// kernel's error if it refuses.
	Sleep() error
	// Alarm immediately shows a person what they must act on. It needs no process but
	// this one.
	Alarm(text string)
}

// Options change how a system sleeps.
type Options struct {
	// DryRun looks and changes nothing.
	DryRun bool
}

// Result says what happened to the unlocked volumes.
type Result struct {
	// Volumes are in the order in which they are suspended: a volume comes before those
	// it is on. They are resumed in the opposite order.
	Volumes []Volume `json:"volumes"`
	// Slept is true if the system slept.
	Slept bool `json:"slept"`
	// Steps are what was done, or would be done in a dry run, in order.
	Steps    []volume.Step `json:"steps,omitempty"`
	Warnings []string      `json:"warnings,omitempty"`
}

// Volume describes one of them.
type Volume struct {
	Volume  string `json:"volume"`
	Mapping string `json:"mapping"`
	Source  string `json:"source"`
	// NewKey is true if the blob is opened and proved again.
	NewKey bool `json:"new_key"`
	// Rotating is true if a rotation is under way, so that there are two keys.
	Rotating bool `json:"rotating"`
	// Revived is true if the key had been lost before, and a rotation with it.
	Revived bool `json:"-"`
	// On are the volumes that this one, or its header, is on.
	On []string `json:"on,omitempty"`
	// Suspended is true if the volume was left suspended: its users wait, and nothing is
	// read or written.
	Suspended bool `json:"suspended"`
}

// Run takes the unlocked volumes through suspend-to-RAM, in which most chips lose the key
// that encrypts their black keys. Without this, a mapping would continue with the stale
// black key: each request fails (CCM), or noise is read and written (ECB).
//
// specs are all volumes of the configuration; locked ones are left alone. Each key is
// opened and proved before the system sleeps, so that a key that is already lost does not
// cost a running system. Then the order matters:
//
//  1. every other process is frozen, and what they wrote is written back
//  2. the mappings are suspended, the top ones first, with their filesystems
//  3. the system sleeps
//  4. from the bottom up, each blob is opened again and proved beside its mapping, the
//     table is loaded with the new black key, and the mapping is resumed
//  5. the processes continue
//
// A volume whose key is not proved stays suspended, with an error of code
// volume-stays-suspended, and so do the volumes on it; the others continue. If no volume
// has a key of the chip, the system just sleeps.
func Run(ctx context.Context, sys volume.System, specs []spec.Volume, machine Machine, o Options) (Result, error) {
	z := &sleeping{sys: sys.WithDefaults(), machine: machine, o: o}
	z.last = z.sys.Now()
	err := z.run(ctx, specs)
	for _, v := range z.volumes {
		z.result.Volumes = append(z.result.Volumes, v.shown())
	}
	return z.result, err
}

// sleeping is one sleep.
type sleeping struct {
	sys     volume.System
	machine Machine
	o       Options
	// volumes are sorted: a volume comes before those it is on.
	volumes []*sleepingVolume
	closers []func() error
	result  Result
	last    time.Time
}

// did notes a step that has just been finished.
func (z *sleeping) did(what string) {
	now := z.sys.Now()
	z.result.Steps = append(z.result.Steps, volume.Step{What: what, Took: volume.Duration(now.Sub(z.last))})
	z.last = now
}

// would notes a step of a dry run.
func (z *sleeping) would(what string) {
	z.result.Steps = append(z.result.Steps, volume.Step{What: what})
}

func (z *sleeping) warn(text string) { z.result.Warnings = append(z.result.Warnings, text) }

func (z *sleeping) run(ctx context.Context, specs []spec.Volume) (err error) {
	z.result.Volumes = []Volume{}
	defer func() {
		for _, c := range slices.Backward(z.closers) {
			err = errors.Join(err, c())
		}
	}()
	slept := z.sys.Slept()
	if err := z.prepare(ctx, specs); err != nil {
		return err
	}
	keyed := slices.ContainsFunc(z.volumes, func(v *sleepingVolume) bool { return v.HasBlackKey() })
	if z.o.DryRun {
		z.announce(keyed)
		return nil
	}
	if !keyed {
		return z.sleep()
	}
	if err := z.machine.Freeze(ctx); err != nil {
		return err
	}
	// From here on everything that was begun is also finished, even if the context ends.
	ctx = context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, z.machine.Thaw()) }()
	z.did("processes frozen")
	if z.sys.Slept().Since(slept) {
		return fault.Newf(fault.KeysLost, "another program suspended the system while the keys were proved; nothing was written back")
	}
	z.machine.Sync()
	z.did("filesystems written back")
	if err := z.suspend(ctx); err != nil {
		return err
	}
	z.did("volumes suspended")
	err = z.sleep()
	slept = z.sys.Slept()
	err = errors.Join(err, z.resumeAll(ctx))
	for _, v := range z.volumes {
		if !v.stays {
			v.RecordProof(slept)
		}
	}
	return err
}

func (z *sleeping) sleep() error {
	if err := z.machine.Sleep(); err != nil {
		return err
	}
	z.result.Slept = true
	z.did("slept")
	return nil
}

// announce notes what would be done.
func (z *sleeping) announce(keyed bool) {
	if !keyed {
		z.would("suspend to RAM: no volume is unlocked with a key of the chip")
		return
	}
	z.would("freeze every other process, write back the filesystems")
	for _, v := range z.volumes {
		z.would("suspend " + v.s.Mapping)
	}
	z.would("suspend to RAM")
	for _, v := range slices.Backward(z.volumes) {
		if v.HasBlackKey() {
			z.would(fmt.Sprintf("open the key of %s again, prove it, resume %s", v.s.Name, v.s.Mapping))
		} else {
			z.would("resume " + v.s.Mapping)
		}
	}
	z.would("let the processes continue")
}

// suspend suspends all volumes, or none.
func (z *sleeping) suspend(ctx context.Context) error {
	for i, v := range z.volumes {
		if err := v.Suspend(ctx); err != nil {
			err = volume.Failed(ctx, "suspend", v.s, err)
			for _, done := range slices.Backward(z.volumes[:i]) {
				err = errors.Join(err, volume.Failed(ctx, "resume", done.s, done.Resume()))
			}
			return err
		}
	}
	return nil
}

// resumeAll resumes the volumes whose keys are proved.
func (z *sleeping) resumeAll(ctx context.Context) error {
	var errs []error
	for _, v := range slices.Backward(z.volumes) {
		err := v.wake(ctx)
		if err == nil {
			continue
		}
		v.stays = true
		err = volume.Failed(ctx, "wake", v.s, fault.New(fault.StaysSuspended, fmt.Sprintf("mapping %s stays suspended, and its users wait", v.s.Mapping), err))
		errs = append(errs, err)
		// What to do comes first, because a long text is cut off.
		z.machine.Alarm(fmt.Sprintf("volume %s stays suspended; imxcrypt unlock %s resumes it when this is repaired: %v", v.s.Name, v.s.Name, err))
	}
	z.did("keys proved, volumes resumed")
	return errors.Join(errs...)
}
