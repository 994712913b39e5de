// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
)

// RotateOptions change how a volume is rotated.
type RotateOptions struct {
	// InitOnly makes and proves the new key and moves no data.
	InitOnly bool
	// ResumeOnly goes on with a rotation that is under way, and begins none.
	ResumeOnly bool
	// RateLimit is how many bytes are moved in a second at most; 0: no limit.
	RateLimit int64
	// MaxHold is how long a zone of a volume in use should be held; 0: 100 ms.
	MaxHold time.Duration
	// DryRun looks and changes nothing.
	DryRun bool
	// Progress is told of each step, Moved of each zone, when it is done.
	Progress func(Step)
	Moved    func(Rotation)
}

// defaultMaxHold is how long a zone should be held: an fsync waits for it, and
// some programs notice more.
const defaultMaxHold = 100 * time.Millisecond

// Rotation is how far a rotation is.
type Rotation struct {
	// Done and Total are bytes under the new key, and all.
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
	// Generation is the new key's.
	Generation int `json:"generation"`
	// Held is how long the last zone was held.
	Held time.Duration `json:"-"`
}

// RotateResult is what a rotation came to.
type RotateResult struct {
	Result
	// Rotation is nil where none was begun.
	Rotation *Rotation `json:"rotation"`
}

// Rotate gives a volume a new key and encrypts its data anew, in place: locked,
// unlocked or mounted and in use. It goes on with a rotation that is under way,
// and stops cleanly at the next zone when ctx is cancelled, with an error of
// code interrupted.
//
// Wherever it is cut off, the volume opens, and the next Rotate goes on:
//
//  1. the first records are written, then the header with both keys; the new
//     key is proved by its check area. All data is on the old side
//  2. zone after zone is moved; the record tells which (package reencrypt)
//  3. the new key is proved once more, then the header is written without the
//     old one
func (m *Manager) Rotate(ctx context.Context, s Spec, o RotateOptions) (RotateResult, error) {
	r, err := m.rotate(ctx, s, o)
	return r, failed(ctx, "rotate", s, err)
}

func (m *Manager) rotate(ctx context.Context, s Spec, o RotateOptions) (r RotateResult, err error) {
	j := m.begin(s, o.Progress)
	x := &rotating{Manager: m, s: s, o: o, j: j}
	defer func() { r.Result, r.Rotation = j.result, x.progress }()
	if !o.DryRun {
		release, err := m.sys.Locks.Acquire(ctx, s.Name)
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	path, err := m.find(ctx, s, true)
	if err != nil {
		return r, err
	}
	x.c, err = m.openContainer(s, path, rotationFlags(!o.DryRun))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, x.c.close()) }()
	if x.h, err = readHeader(x.c); err != nil {
		return r, err
	}
	j.of(x.h, path)
	if err := x.mayRotate(); err != nil {
		return r, err
	}
	return r, x.run(ctx)
}

// rotating is one run over one volume.
type rotating struct {
	*Manager
	s Spec
	o RotateOptions
	j *journey
	c *container
	h *header
	// live: the volume is unlocked, and perhaps in use.
	live     bool
	progress *Rotation
	// trusted fails once the keys that the data is moved with may be dead.
	trusted func() error
}

// mayRotate is mayOpen, but that a volume which is not yet as configured can be
// made so.
func (x *rotating) mayRotate() error {
	if x.h.next != nil || x.o.ResumeOnly {
		return x.mayOpen(x.s, x.h, x.j)
	}
	if err := x.s.permitted(); err != nil {
		return err
	}
	if x.h.matches(x.h.changeable(x.s)) != nil {
		return x.h.matches(x.s)
	}
	return x.mayUse(x.s, x.h, x.j)
}

func (x *rotating) run(ctx context.Context) (err error) {
	u := &unlocking{Manager: x.Manager, s: x.s, o: UnlockOptions{DryRun: x.o.DryRun}, j: x.j, c: x.c, h: x.h}
	if x.live, err = u.alreadyOpen(ctx); err != nil {
		return err
	}
	if x.live {
		x.j.result.Mapping = "/dev/mapper/" + x.s.Mapping
		if err := x.tidy(ctx); err != nil {
			return err
		}
	}
	if x.h.next == nil && x.o.ResumeOnly {
		x.j.result.Already = true
		return nil
	}
	if x.o.DryRun {
		return x.announceSteps()
	}
	if !x.live {
		if err := x.alone(ctx, x.s, x.h, x.c.data); err != nil {
			return err
		}
	}
	if x.h.next == nil {
		if err := x.start(ctx); err != nil {
			return err
		}
	}
	return x.goOn(ctx)
}

// tidy takes away what a killed run left beside a live volume that needs none of
// it.
func (x *rotating) tidy(ctx context.Context) error {
	live, err := x.sys.Mapper.Table(x.s.Mapping)
	if err != nil || x.o.DryRun || len(live) != 1 || live[0].Kind() != (dmcrypt.Crypt{}).Kind() {
		return err
	}
	_, err = x.removePrivate(ctx, x.s)
	return err
}

func (x *rotating) announceSteps() error {
	if x.h.next == nil {
		l, err := x.h.planRotation(x.s, x.c)
		if err != nil {
			return err
		}
		if changes := x.h.changes(x.s); changes != "" {
			x.j.would("change " + changes)
		}
		x.j.would(fmt.Sprintf("create a key of %d bytes, generation %d, and prove it", x.s.KeySize, x.h.token.Generation+1))
		x.j.would(fmt.Sprintf("move %d bytes from byte %d to byte %d of %s, protected by a %s", l.DataSize, l.OldOffset, l.NewOffset, x.c.data.Path(), l.Mode))
	} else {
		x.j.would(fmt.Sprintf("go on with the rotation to generation %d", x.h.next.token.Generation))
	}
	x.j.would("remove the old key from the header")
	return nil
}

// start makes the new key and the header with both, and proves it.
func (x *rotating) start(ctx context.Context) error {
	src, err := x.sourceOf(x.s)
	if err != nil {
		return err
	}
	l, err := x.h.planRotation(x.s, x.c)
	if err != nil {
		return err
	}
	state, err := x.stateAllowed()
	if err != nil {
		return err
	}
	if x.c.detached() && x.h.token.Recovery.Made() {
		return refuse(fault.DeviceUnsuitable, "nothing proves the recipients that stand in the detached header %s: a new key is not sealed to them", x.s.Header)
	}
	x.trusted = x.awake()
	if err := x.proveOld(ctx); err != nil {
		return err
	}
	request := x.h.keyRequestNext(x.s)
	key, blob, copied, red, err := newKey(ctx, src, x.sys.Rand, request, x.h.token.Recovery.Recipients)
	if err != nil {
		return err
	}
	defer key.wipe()
	defer red.Wipe()
	x.j.did("key created")
	next := x.h.beginRotation(Token{
		Source: x.s.Source, Generation: request.generation, Blob: blob, Wrap: request.wrap, KeySize: x.s.KeySize,
		State: state, Created: x.sys.Now(), Recovery: copied,
	}, x.s.Cipher, l)
	if err := x.proveCopy(ctx, next, key, red); err != nil {
		return err
	}
	if err := x.putKey(ctx, next, key, l); err != nil {
		return err
	}
	x.j.did("new key proved")
	return nil
}

// proveOld proves the key that the data is under. In a detached header it gets
// a check for as long as the rotation takes.
func (x *rotating) proveOld(ctx context.Context) error {
	old, err := x.proved(ctx, x.h)
	if err != nil {
		return err
	}
	defer old.wipe()
	if err := x.largerSectors(ctx, old); err != nil {
		return err
	}
	if !x.c.detached() {
		return nil
	}
	return x.deriveCheck(ctx, x.s, x.h, x.c, old)
}

// putKey writes the first records, the header with the new key, and its check;
// then reads all of it back from storage and proves it.
func (x *rotating) putKey(ctx context.Context, next *header, key liveKey, l reencrypt.Layout) error {
	block, err := newCheckBlock(x.sys.Rand, next.binding())
	if err != nil {
		return err
	}
	next.check.Digest = sha256.Sum256(block)
	if next.check.Derived {
		if err := x.deriveCheck(ctx, x.s, next, x.c, key); err != nil {
			return err
		}
	}
	// A check derived with a dead key would refuse the right one from now on.
	if err := x.trusted(); err != nil {
		return err
	}
	if err := x.firstRecords(ctx, next, l); err != nil {
		return err
	}
	if err := x.h.write(x.c.header); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	if next.check.InHeader() {
		if err := x.writeThrough(ctx, x.s, next, key, next.checkArea(x.c.header.Number()), block); err != nil {
			return fmt.Errorf("write the check: %w", err)
		}
	}
	h, err := readHeader(x.c)
	if err != nil {
		return fmt.Errorf("read the header back: %w", err)
	}
	if h.next == nil {
		return refuse(fault.HeaderInvalid, "the header that was read back has no new key")
	}
	again, err := x.proved(ctx, h.next)
	if err != nil {
		return err
	}
	again.wipe()
	x.h = h
	return nil
}

// firstRecords writes the records before the header says that there are some.
// No data is moved by that, so the mappings are not needed yet.
func (x *rotating) firstRecords(ctx context.Context, next *header, l reencrypt.Layout) error {
	b, err := x.h.rotationBinding(next.token.Generation)
	if err != nil {
		return err
	}
	e, err := reencrypt.NewEngine(reencrypt.Options{
		Layout: l, Binding: b, Lanes: 1, Unit: blockAlign,
		Views: reencrypt.Views{Old: x.c.data, New: x.c.data, Raw: x.c.data, Meta: x.c.header},
	})
	if err != nil {
		return err
	}
	return e.Begin(ctx)
}

// stateAllowed applies the rules about the chip's security state to a new key.
func (x *rotating) stateAllowed() (caam.SecurityState, error) {
	if x.s.Source != SourceCAAM {
		return caam.Unknown, nil
	}
	state := x.sys.SecurityState()
	if state == caam.Open && !x.s.AllowOpenState {
		return state, refuse(fault.OpenStateRefused, "this chip is open: a new key would be sealed with the test master key that all open chips share, and lost when the chip is closed")
	}
	return state, nil
}

// proved opens a key and proves it.
func (x *rotating) proved(ctx context.Context, h *header) (liveKey, error) {
	return x.openProved(ctx, x.s, h, x.c)
}

// goOn moves what is not moved yet, and ends the rotation.
func (x *rotating) goOn(ctx context.Context) error {
	r, err := x.h.rotationRecord(x.c)
	if err != nil {
		return err
	}
	x.progress = &Rotation{Done: r.Done(), Total: r.DataSize, Generation: x.h.next.token.Generation}
	// Before the first key that the data is moved with is opened.
	x.trusted = x.awake()
	next, err := x.proved(ctx, x.h.next)
	if err != nil {
		if again, dropErr := x.drop(ctx, r, err); again || dropErr != nil {
			return dropErr
		}
		return err
	}
	defer next.wipe()
	if x.o.InitOnly {
		return nil
	}
	k, err := x.newStack(x.s, x.h, x.c)
	if err != nil {
		return err
	}
	if r.Phase != reencrypt.Finished {
		if err := x.move(ctx, k, next); err != nil {
			return err
		}
		x.j.did("data moved")
	}
	return x.finish(ctx, k, next)
}

// drop gives up a new key that does not open or was never proved, while no data
// is under it, and starts again with another. again is false where that is not
// so, or not the reason.
func (x *rotating) drop(ctx context.Context, r reencrypt.Record, cause error) (again bool, err error) {
	if !r.Untouched() || ctx.Err() != nil {
		return false, nil
	}
	switch fault.CodeOf(cause) {
	case fault.KeyWrong, fault.BlobRejected, fault.BlobDamaged, fault.BlobOpenState, fault.KeyFileDamaged:
	default:
		return false, nil
	}
	k, err := x.newStack(x.s, x.h, x.c)
	if err != nil {
		return false, err
	}
	if n, err := k.look(newSuffix); err != nil || !n.Number.IsZero() {
		return false, err
	}
	x.sys.Log.Warn("the new key of an interrupted rotation was never proved; another one is made", "volume", x.s.Name)
	x.h.next = nil
	x.h.forgetDerived()
	if err := x.h.write(x.c.header); err != nil {
		return false, fmt.Errorf("write the header: %w", err)
	}
	if err := x.start(ctx); err != nil {
		return false, err
	}
	return true, x.goOn(ctx)
}

// move runs the engine over the mappings of both sides.
func (x *rotating) move(ctx context.Context, k *stack, next liveKey) error {
	if err := x.mapSides(ctx, k, next); err != nil {
		return err
	}
	var e *reencrypt.Engine
	err := x.withEngine(k, x.h, x.c, func(o *reencrypt.Options) { x.hooks(o, k, &e) }, func(engine *reencrypt.Engine) error {
		e = engine
		err := e.Run(ctx)
		var unsettled *reencrypt.UnsettledError
		if x.live && !errors.As(err, &unsettled) {
			err = errors.Join(err, k.rest(ctx, e.Record()))
		}
		return err
	})
	if e != nil && e.Record().DataSize > 0 {
		x.progress.Done = e.Record().Done()
	}
	if err != nil && !x.live {
		err = errors.Join(err, k.remove(ctx))
	}
	return err
}

// mapSides makes the mappings that the data moves between, or takes those that
// are under a live volume already.
func (x *rotating) mapSides(ctx context.Context, k *stack, next liveKey) error {
	if x.live {
		live, err := x.sys.Mapper.Table(x.s.Mapping)
		if err != nil {
			return err
		}
		over, err := k.look(overlaySuffix)
		if err != nil {
			return err
		}
		if k.overlay = over.Number; k.isTop(live) {
			return x.takeOver(ctx, k)
		}
	}
	old, err := x.proved(ctx, x.h)
	if err != nil {
		return err
	}
	defer old.wipe()
	if err := k.build(ctx, x.h, x.c, old, next); err != nil {
		return err
	}
	if !x.live {
		return nil
	}
	return x.putOver(ctx, k)
}

// takeOver goes on with the mappings under a live volume, without the hot one
// that an earlier run may have left.
func (x *rotating) takeOver(ctx context.Context, k *stack) error {
	if err := k.attach(); err != nil {
		return err
	}
	if !k.hot.IsZero() {
		r, err := x.h.rotationRecord(x.c)
		if err != nil {
			return err
		}
		if err := k.rest(ctx, r); err != nil {
			return err
		}
	}
	return x.stillOpen()
}

// putOver slides the overlay under a live volume.
func (x *rotating) putOver(ctx context.Context, k *stack) error {
	r, err := x.h.rotationRecord(x.c)
	if err == nil {
		err = k.buildOverlay(ctx, r)
	}
	if err == nil {
		err = x.sys.Mapper.Swap(ctx, x.s.Mapping, k.whole(k.overlay), false, dmcrypt.Public, quietly)
	}
	if err != nil {
		return errors.Join(err, k.remove(ctx))
	}
	x.j.did("volume put over the rotation's mappings")
	return nil
}

// hooks connects the engine with the mappings and with whoever watches.
func (x *rotating) hooks(o *reencrypt.Options, k *stack, e **reencrypt.Engine) {
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
	}
	o.Hooks.Hold = func(ctx context.Context, z reencrypt.Zone) error { return k.hold(ctx, (*e).Record().Position, z) }
	o.Hooks.Release = func(ctx context.Context, _ reencrypt.Zone, side reencrypt.View) error { return k.release(ctx, side) }
}

// throttle waits so that no more than rate bytes are moved in a second. Time
// in which nothing was moved is not made up for.
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

// finish ends a rotation all of whose data has moved.
func (x *rotating) finish(ctx context.Context, k *stack, next liveKey) error {
	if x.live {
		if err := x.putBack(ctx, next); err != nil {
			return err
		}
	}
	if err := k.remove(ctx); err != nil {
		return err
	}
	// The blob as it is stored, once more: it is about to be the only one.
	h, err := readHeader(x.c)
	if err != nil {
		return err
	}
	if h.next == nil {
		return refuse(fault.HeaderInvalid, "the header changed while the volume was rotated")
	}
	last, err := x.proved(ctx, h.next)
	if err != nil {
		return fmt.Errorf("the new key, once more: %w", err)
	}
	last.wipe()
	if err := x.clearFreed(ctx); err != nil {
		return err
	}
	done := h.endRotation()
	if err := done.write(x.c.header); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	x.j.did("old key removed")
	if x.s.Source == SourceDev {
		src := devSource{files: x.sys.Files, dir: x.s.StateDir}
		if err := x.sys.Files.Remove(src.path(h.keyRequest())); err != nil {
			x.j.warn("the file of the old key could not be removed: " + err.Error())
		}
	}
	x.h = done
	x.j.of(done, x.j.result.Device)
	return nil
}

// putBack makes a live volume one plain crypt mapping with the new key.
func (x *rotating) putBack(ctx context.Context, next liveKey) error {
	live, err := x.sys.Mapper.Table(x.s.Mapping)
	if err != nil {
		return err
	}
	return next.use(x.h.next.description(), func(ref dmcrypt.KeyRef) error {
		t, err := x.h.next.dataTable(x.s, x.c.data.Number(), ref)
		if err != nil || t.Equal(live) {
			return err
		}
		if err := x.sys.Mapper.Swap(ctx, x.s.Mapping, t, false, dmcrypt.Public, quietly); err != nil {
			return err
		}
		x.j.did("volume put over the new key")
		return nil
	})
}
