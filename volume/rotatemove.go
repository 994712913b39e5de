// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
)

// defaultMaxHold is how long a zone should be held: reads and writes in it wait, and some
// programs notice longer waits. If the kernel has no dm-delay, every fsync waits for the
// zone, and shortMaxHold applies.
const (
	defaultMaxHold = 100 * time.Millisecond
	shortMaxHold   = 40 * time.Millisecond
)

// moveRest moves what has not moved yet and ends the rotation.
func (x *rotating) moveRest(ctx context.Context) error {
	r, err := x.h.RotationRecord(x.c)
	if err != nil {
		return err
	}
	x.progress = &Rotation{Done: r.Done(), Total: r.DataSize, Generation: x.h.Next.Token.Generation}
	if x.h.Decrypting() {
		x.progress.Generation = 0
	}
	if x.h.Encrypting() && x.c.Detached() && r.Untouched() && !x.live {
		if err := x.stillPlain(); err != nil {
			return err
		}
	}
	// Before the first key is opened that the data is moved with.
	x.trusted = x.suspendGuard()
	var next source.Key
	// A first key without a check cannot be proved.
	if err = x.h.RequireProvedKey(); err == nil {
		next, err = x.openProved(ctx, x.s, x.h.Next, x.c, nil)
	}
	if err != nil {
		if dropped, dropErr := x.drop(ctx, r, err); dropped || dropErr != nil {
			return dropErr
		}
		return err
	}
	defer next.Wipe()
	if x.o.InitOnly {
		return nil
	}
	// A file is read from the page cache, which also shows a header copy whose flush
	// failed. So the header is written once more before the new key is the only one of
	// any data.
	if x.c.Detached() && !x.h.Copies.Intact() {
		if err := x.h.RepairOn(x.c); err != nil {
			return fmt.Errorf("write both copies of the header: %w", err)
		}
	}
	k, err := x.kernel.NewStack(x.s, x.h, x.c)
	if err != nil {
		return err
	}
	if r.Phase != reencrypt.Finished {
		if err := x.move(ctx, k, r, next); err != nil {
			return err
		}
		x.j.did("data moved")
	} else if err := r.WriteAgain(x.c.Header, header.RotationRecordOffset); err != nil {
		// A killed run may not have flushed the record, and the next step overwrites what
		// the record before it needs.
		return err
	}
	return x.finish(ctx, k, next)
}

// move runs the engine over the mappings of both sides.
func (x *rotating) move(ctx context.Context, k *mapping.Stack, r reencrypt.Record, next source.Key) error {
	if err := x.mapSides(ctx, k, next); err != nil {
		return err
	}
	var e *reencrypt.Engine
	err := x.withEngine(k, x.h, x.c, func(o *reencrypt.Options) { x.hooks(o, k, &e) }, func(engine *reencrypt.Engine) error {
		e = engine
		if err := notBehind(k, x.c, r); err != nil {
			return err
		}
		err := e.Run(ctx)
		var unsettled *reencrypt.UnsettledError
		if x.live && !errors.As(err, &unsettled) {
			// If a zone could not be released, suspending would wait for it forever. The
			// next command settles it.
			held, lookErr := k.HotSuspended()
			if err = errors.Join(err, lookErr); !held {
				err = errors.Join(err, k.ShowRecord(ctx, e.Record()))
			}
		}
		return err
	})
	if e != nil && e.Record().DataSize > 0 {
		x.progress.Done = e.Record().Done()
	}
	if err != nil && !x.live {
		err = errors.Join(err, k.Remove(ctx))
	}
	return err
}

// mapSides makes the mappings that the data moves between, or takes over those that are
// already under a live volume.
func (x *rotating) mapSides(ctx context.Context, k *mapping.Stack, next source.Key) error {
	if x.live {
		live, err := x.sys.Mapper.Table(x.s.Mapping)
		if err != nil {
			return err
		}
		over, err := k.Look(mapping.OverlaySuffix)
		if err != nil {
			return err
		}
		if k.Overlay = over.Number; k.IsTop(live) {
			if err := x.takeOver(ctx, k); err != nil {
				return err
			}
			switch {
			case x.h.Encrypting():
				return x.sameKey(ctx, k, x.h.Next, mapping.NewSuffix, k.New, next)
			case x.h.Decrypting():
				old, err := x.openProved(ctx, x.s, x.h, x.c, nil)
				if err != nil {
					return err
				}
				defer old.Wipe()
				return x.sameKey(ctx, k, x.h, mapping.OldSuffix, k.Old, old)
			}
			return nil
		}
	}
	old, err := x.openProved(ctx, x.s, x.h, x.c, nil)
	if err != nil {
		return err
	}
	defer old.Wipe()
	if err := k.Build(ctx, x.h, x.c, old, next); err != nil {
		return err
	}
	if !x.live {
		return nil
	}
	return x.putOver(ctx, k)
}

// takeOver continues with the mappings under a live volume, without the hot ones that an
// earlier run may have left.
func (x *rotating) takeOver(ctx context.Context, k *mapping.Stack) error {
	if err := k.Attach(); err != nil {
		return err
	}
	if err := x.stillOpen(); err != nil || k.Hot == [2]dmcrypt.Number{} {
		return err
	}
	return x.settleHeld(ctx, k, x.h, x.c)
}

// putOver puts a live volume over the overlay.
func (x *rotating) putOver(ctx context.Context, k *mapping.Stack) error {
	r, err := x.h.RotationRecord(x.c)
	if err == nil {
		err = k.BuildOverlay(ctx, r)
	}
	if err == nil {
		err = x.trusted()
	}
	if err == nil {
		err = x.sys.Mapper.Swap(ctx, x.s.Mapping, k.WholeTable(k.Overlay), false, dmcrypt.Public, mapping.Quietly)
	}
	if err != nil {
		return errors.Join(err, k.Remove(ctx))
	}
	x.j.did("volume put over the rotation's mappings")
	return nil
}

// hooks connects the engine with the mappings and with the caller's callback.
func (x *rotating) hooks(o *reencrypt.Options, k *mapping.Stack, e **reencrypt.Engine) {
	o.Hooks.Progress = func(p reencrypt.Progress) {
		x.progress.Done, x.progress.Total, x.progress.Held = p.Done, p.Total, p.Held
		if x.o.Moved != nil {
			x.o.Moved(*x.progress)
		}
	}
	o.Hooks.Trusted = x.trusted
	if x.o.RateLimit > 0 {
		o.Hooks.Throttle = throttle(x.o.RateLimit)
	}
	if !x.live {
		return
	}
	o.MaxHold = x.o.MaxHold
	if o.MaxHold <= 0 {
		o.MaxHold = defaultMaxHold
		o.Hooks.MaxHold = func() time.Duration {
			if k.LacksDelay() {
				return shortMaxHold
			}
			return defaultMaxHold
		}
	}
	o.Hooks.Shared = x.shared()
	o.Hooks.Hold = func(ctx context.Context, z reencrypt.Zone) error { return k.Hold(ctx, (*e).Record().Position, z) }
	o.Hooks.Release = func(ctx context.Context, _ reencrypt.Zone, side reencrypt.View) error { return k.Release(ctx, side) }
}

// shared returns a function that reports whether programs read or wrote the volume since
// the function was last called.
func (x *rotating) shared() func() bool {
	if x.sys.Requests == nil {
		return nil
	}
	before := ""
	return func() bool {
		info, err := x.sys.Mapper.Info(x.s.Mapping)
		if err != nil {
			return false
		}
		was := before
		before = x.sys.Requests(info.Number)
		return was != "" && before != "" && was != before
	}
}

// throttle waits so that no more than rate bytes are moved per second. Idle time is not
// made up for.
func throttle(rate int64) func(context.Context, int64) error {
	var next time.Time
	return func(ctx context.Context, n int64) error {
		now := time.Now()
		wait := next.Sub(now)
		next = now.Add(max(wait, 0) + time.Duration(float64(n)/float64(rate)*float64(time.Second)))
		if wait <= 0 {
			return nil
		}
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// suspendGuard returns a function that fails once the system has been suspended. On most
// chips the black keys under the mappings are dead then, and an ECB key would have the
// rest of the data copied as noise.
func (x *rotating) suspendGuard() func() error {
	before := x.sys.Slept()
	return func() error {
		if !x.sys.Slept().Since(before) {
			return nil
		}
		return fault.Newf(fault.KeysLost, "the system was suspended while the volume was rotated, in which most chips lose the keys that are in the kernel; what was copied since the last record is not trusted, and stays as it was")
	}
}

// stillOpen checks the keys under the live volume. An earlier run made its mappings. If
// the system was suspended since, their keys may be dead, and an ECB key would have the
// rest of the data copied as noise.
func (x *rotating) stillOpen() error {
	info, err := x.sys.Mapper.Info(x.s.Mapping)
	if err != nil {
		return err
	}
	is, why := x.condition(x.s, info)
	if is.lost() {
		return lostKey(x.s, is, why)
	}
	return nil
}
