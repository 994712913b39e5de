// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
)

// SleepMachine is what carries a system through suspend-to-RAM.
type SleepMachine interface {
	// Freeze stops every process but this one and returns when all have stopped.
	// After an error all go on.
	Freeze(ctx context.Context) error
	// Thaw lets them go on. It is called once after a Freeze that worked.
	Thaw() error
	// Sync writes back what the filesystems hold.
	Sync()
	// Sleep suspends to RAM and returns when the system is awake again, or with
	// the kernel's refusal.
	Sleep() error
	// Alarm shows a person at once, by a way that needs no process but this one,
	// what they must act on.
	Alarm(text string)
}

// SleepOptions change how a system sleeps.
type SleepOptions struct {
	// DryRun looks and changes nothing.
	DryRun bool
	// Progress is told of each step when it is done.
	Progress func(Step)
}

// SleepResult is what became of the unlocked volumes.
type SleepResult struct {
	// Volumes stand in the order in which they are suspended: what lies on
	// another comes before it. They are resumed in the opposite order.
	Volumes []SleepVolume `json:"volumes"`
	// Slept is true if the system slept.
	Slept bool `json:"slept"`
	// Steps are what was done, or would be by a dry run, in order.
	Steps    []Step   `json:"steps,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// SleepVolume is one of them.
type SleepVolume struct {
	Volume  string `json:"volume"`
	Mapping string `json:"mapping"`
	Source  string `json:"source"`
	// NewKey is true where the blob is opened and proved anew.
	NewKey bool `json:"new_key"`
	// Rotating is true where two keys are.
	Rotating bool `json:"rotating"`
	// On are the volumes that this one lies on.
	On []string `json:"on,omitempty"`
	// Suspended is true if the volume was left suspended: whoever uses it waits,
	// and nothing is read or written.
	Suspended bool `json:"suspended"`
}

// Sleep takes the unlocked volumes through suspend-to-RAM, in which most chips
// lose the key that their black keys are encrypted by. A mapping goes on with the
// stale black key otherwise: each request fails (CCM), or noise is read and
// written (ECB).
//
// specs are all volumes of the configuration; those that are locked are left
// alone. Each key is opened and proved before the system sleeps, so that one which
// is lost already does not lose a running system. Then the order matters:
//
//  1. every other process is frozen, and what they wrote is written back
//  2. the mappings are suspended, the top ones first, with their filesystems
//  3. the system sleeps
//  4. from the bottom up each blob is opened again and proved beside its mapping,
//     the table is loaded with the new black key, the mapping is resumed
//  5. the processes go on
//
// A volume whose key is not proved stays suspended, with an error of code
// volume-stays-suspended, and so does what lies on it; the others go on. Where no
// volume has a key of the chip, the system just sleeps.
func (m *Manager) Sleep(ctx context.Context, specs []Spec, machine SleepMachine, o SleepOptions) (SleepResult, error) {
	z := &sleeping{Manager: m, machine: machine, o: o, j: m.begin(Spec{}, o.Progress)}
	err := z.run(ctx, specs)
	return z.result(), err
}

// sleeping is one sleep.
type sleeping struct {
	*Manager
	machine SleepMachine
	o       SleepOptions
	j       *journey
	// sleepers are sorted: what lies on another comes before it.
	sleepers []*sleeper
	slept    bool
	closers  []func() error
}

func (z *sleeping) result() SleepResult {
	r := SleepResult{Volumes: []SleepVolume{}, Slept: z.slept, Steps: z.j.result.Steps, Warnings: z.j.result.Warnings}
	for _, v := range z.sleepers {
		r.Volumes = append(r.Volumes, v.shown())
	}
	return r
}

func (z *sleeping) run(ctx context.Context, specs []Spec) (err error) {
	defer func() {
		for _, c := range slices.Backward(z.closers) {
			err = errors.Join(err, c())
		}
	}()
	if err := z.prepare(ctx, specs); err != nil {
		return err
	}
	keyed := slices.ContainsFunc(z.sleepers, (*sleeper).keyed)
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
	// From here on everything that was begun is also ended, whoever asks to stop.
	ctx = context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, z.machine.Thaw()) }()
	z.j.did("processes frozen")
	z.machine.Sync()
	z.j.did("filesystems written back")
	if err := z.suspend(ctx); err != nil {
		return err
	}
	z.j.did("volumes suspended")
	err = z.sleep()
	return errors.Join(err, z.wake(ctx))
}

func (z *sleeping) sleep() error {
	if err := z.machine.Sleep(); err != nil {
		return err
	}
	z.slept = true
	z.j.did("slept")
	return nil
}

// announce says what would be done.
func (z *sleeping) announce(keyed bool) {
	if !keyed {
		z.j.would("suspend to RAM: no volume is unlocked with a key of the chip")
		return
	}
	z.j.would("freeze every other process, write back the filesystems")
	for _, v := range z.sleepers {
		z.j.would("suspend " + v.s.Mapping)
	}
	z.j.would("suspend to RAM")
	for _, v := range slices.Backward(z.sleepers) {
		if v.keyed() {
			z.j.would(fmt.Sprintf("open the key of %s again, prove it, resume %s", v.s.Name, v.s.Mapping))
		} else {
			z.j.would("resume " + v.s.Mapping)
		}
	}
	z.j.would("let the processes go on")
}

// suspend suspends all, or none.
func (z *sleeping) suspend(ctx context.Context) error {
	for i, v := range z.sleepers {
		if err := v.suspend(ctx); err != nil {
			err = failed(ctx, "suspend", v.s, err)
			for _, done := range slices.Backward(z.sleepers[:i]) {
				err = errors.Join(err, failed(ctx, "resume", done.s, done.resume()))
			}
			return err
		}
	}
	return nil
}

// wakePatience is how long one volume may take. A read that never returns must
// not keep the rest of the system frozen.
const wakePatience = time.Minute

// wake resumes the volumes whose keys are proved.
func (z *sleeping) wake(ctx context.Context) error {
	var errs []error
	for _, v := range slices.Backward(z.sleepers) {
		err := v.onSuspended()
		if err == nil {
			err = within(wakePatience, func() error { return v.wake(ctx) })
		}
		if err == nil {
			continue
		}
		v.stays = true
		err = failed(ctx, "wake", v.s, fault.New(fault.StaysSuspended, fmt.Sprintf("mapping %s stays suspended, whoever uses it waits", v.s.Mapping), err))
		errs = append(errs, err)
		// What to do comes first: a long text is cut.
		z.machine.Alarm(fmt.Sprintf("volume %s stays suspended; imxcrypt unlock %s lets it go on when this is mended: %v", v.s.Name, v.s.Name, err))
	}
	z.j.did("keys proved, volumes resumed")
	return errors.Join(errs...)
}

func within(patience time.Duration, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return refuse(fault.IOFailed, "no answer within %v", patience)
	}
}

// strangers refuses to sleep while a mapping has a key of the chip that nobody
// would open again.
func (z *sleeping) strangers() error {
	infos, err := z.sys.Mapper.List()
	if err != nil {
		return err
	}
	for _, i := range infos {
		if !i.Live || i.Suspended || slices.ContainsFunc(z.sleepers, func(v *sleeper) bool { return v.owns(i.Name) }) {
			continue
		}
		t, err := z.sys.Mapper.Table(i.Name)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(t, losesKey) {
			return refuse(fault.SleepRefused, "mapping %s has a key that the chip loses in suspend-to-RAM, and is not an unlocked volume of this configuration", i.Name)
		}
	}
	return nil
}

// losesKey tells whether a target has a black key. Mainline's protected keys
// (paes) open their blob for each request.
func losesKey(t dmcrypt.Target) bool {
	c, ok := t.(dmcrypt.Crypt)
	return ok && (strings.Contains(string(c.Cipher), "tk(") || strings.Contains(string(c.Cipher), "tk-"))
}
