// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
)

// Run moves zones until the rotation is finished (nil), is paused ([ErrPaused]) or fails.
// It recovers first if that has not been done. It clears the user's data from its buffers
// before it returns.
func (e *Engine) Run(ctx context.Context) error {
	if !e.working.TryLock() {
		return errBusy
	}
	defer e.working.Unlock()
	defer e.copier.wipe()
	if run := e.unheld(); run != nil {
		if err := e.ready(ctx); err != nil || e.record.Phase == Finished {
			return err
		}
		return run(ctx)
	}
	for {
		if done, err := e.step(ctx); done || err != nil {
			return err
		}
	}
}

// unheld returns the function that moves everything that is left if no zone is held and
// nothing throttles the rotation. It returns nil if each zone is moved by itself.
func (e *Engine) unheld() func(context.Context) error {
	if e.hooks.Hold != nil || e.hooks.Throttle != nil {
		return nil
	}
	if e.layout.Mode == Gap {
		return e.stream
	}
	if size, _ := e.ringSize(); size > 0 && len(e.copier.bufs) > 1 {
		return e.ring
	}
	return nil
}

// Step moves one zone, or none if everything is moved, and reports whether the rotation
// is finished. Otherwise it is like Run.
func (e *Engine) Step(ctx context.Context) (finished bool, err error) {
	if !e.working.TryLock() {
		return false, errBusy
	}
	defer e.working.Unlock()
	defer e.copier.wipe()
	return e.step(ctx)
}

func (e *Engine) step(ctx context.Context) (finished bool, err error) {
	if err := e.ready(ctx); err != nil {
		return false, err
	}
	if e.record.Phase == Finished {
		return true, nil
	}
	if e.hooks.MaxHold != nil && e.pace.target > 0 {
		e.pace.target = e.hooks.MaxHold()
	}
	zone := e.layout.zoneAt(e.record.Position, e.pace.size)
	if err := e.throttle(ctx, zone); err != nil {
		return false, err
	}
	begun := e.now()
	if err := e.hold(ctx, zone); err != nil {
		return false, err
	}
	e.copier.short = e.hooks.Shared != nil && e.hooks.Shared()
	err = e.move(zone)
	if undecided(err) {
		e.settled = false
		return false, err
	}
	if rerr := e.release(ctx); rerr != nil {
		return false, errors.Join(err, rerr)
	}
	if err != nil {
		return false, err
	}
	held := e.now().Sub(begun)
	e.pace.adapt(zone.Length, held)
	if e.hooks.Progress != nil {
		e.hooks.Progress(Progress{
			Done: e.record.Done(), Total: e.layout.DataSize, Zone: zone, Held: held,
		})
	}
	return e.record.Phase == Finished, nil
}

// ready brings the engine to the state between two zones.
func (e *Engine) ready(ctx context.Context) error {
	if err := e.boundary(ctx); err != nil {
		return err
	}
	if !e.settled {
		return e.recover(ctx)
	}
	return e.release(ctx)
}

// move takes the held zone from the old side to the new one. After an error other than an
// [*UnsettledError] the zone is on the old side as before.
func (e *Engine) move(z Zone) error {
	if e.layout.Mode == Journal {
		return e.moveInPlace(z)
	}
	if err := e.copyZone(z); err != nil {
		return err
	}
	if err := e.trusted(); err != nil {
		return err
	}
	return e.commit(e.moved(z), z)
}

// copyZone makes the zone durable on the new side. It does not write the record.
func (e *Engine) copyZone(z Zone) error {
	if err := e.copier.run(route{from: Old, fromOff: z.Start, to: New, toOff: z.Start, length: z.Length}); err != nil {
		return err
	}
	return e.flush(New)
}

func (e *Engine) trusted() error {
	if e.hooks.Trusted == nil {
		return nil
	}
	if err := e.hooks.Trusted(); err != nil {
		return fmt.Errorf("after copying: %w", err)
	}
	return nil
}

// moved returns the record that makes the zone count on the new side.
func (e *Engine) moved(z Zone) Record {
	r := e.record
	r.Phase = Moving
	r.Position = e.layout.after(z)
	r.Zone = z.Length
	r.Zones++
	r = r.unjournaled()
	if r.Position == e.layout.end() {
		r.Phase = Finished
	}
	return r
}

func (e *Engine) throttle(ctx context.Context, z Zone) error {
	if e.hooks.Throttle == nil {
		return nil
	}
	err := e.hooks.Throttle(ctx, z.Length)
	// Time has passed: a pause requested meanwhile takes effect.
	if perr := e.boundary(ctx); perr != nil {
		return perr
	}
	if err != nil {
		return fmt.Errorf("waiting before the zone %v: %w", z, err)
	}
	return nil
}

func (e *Engine) hold(ctx context.Context, z Zone) error {
	if e.hooks.Hold == nil {
		return nil
	}
	if err := e.hooks.Hold(ctx, z); err != nil {
		if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
			return fmt.Errorf("%w: holding the zone %v: %w", ErrPaused, z, err)
		}
		return fmt.Errorf("holding the zone %v: %w", z, err)
	}
	e.held = z
	return nil
}

// release releases the held zone to the side that the record names.
func (e *Engine) release(ctx context.Context) error {
	if e.held.Length == 0 {
		return nil
	}
	z, side := e.held, Old
	if e.layout.done(e.layout.after(z)) <= e.record.Done() {
		side = New
	}
	if e.hooks.Release != nil {
		if err := e.hooks.Release(context.WithoutCancel(ctx), z, side); err != nil {
			return fmt.Errorf("releasing the zone %v to the %s: %w", z, side, err)
		}
	}
	e.held = Zone{}
	return nil
}

func undecided(err error) bool {
	var u *UnsettledError
	return errors.As(err, &u)
}
