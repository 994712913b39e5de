// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Writer is a view that is written. Flush makes durable what was written
// before it.
type Writer interface {
	io.WriterAt
	Flush() error
}

// ReadWriter is a view that is both read and written.
type ReadWriter interface {
	io.ReaderAt
	Writer
}

// Views are what a rotation works on. Requests are aligned, in address, offset
// and length, to the larger of crypt sector and logical block; those to Meta to
// the logical block at least if [Layout.RecordOffset] is aligned to 4096. All
// must take calls from several goroutines, as files do, and must not be cached
// above the device (O_DIRECT): Old, New and Raw show the same bytes.
type Views struct {
	Old  io.ReaderAt // plaintext, byte 0 the volume's first
	New  Writer      // the same through the new mapping
	Raw  ReadWriter  // ciphertext, byte 0 the data device's first; mode Journal only
	Meta ReadWriter  // the header area: records and journal
}

func (v *Views) reader(w View) io.ReaderAt {
	switch w {
	case Old:
		return v.Old
	case Raw:
		return v.Raw
	default:
		return v.Meta
	}
}

func (v *Views) writer(w View) Writer {
	switch w {
	case New:
		return v.New
	case Raw:
		return v.Raw
	default:
		return v.Meta
	}
}

// Hooks let a rotation run under a volume in use. All may be nil, then nobody
// uses it or nobody listens. They are called from the goroutine that runs the
// rotation.
type Hooks struct {
	// Hold must return only when no write to the zone is in flight and none can
	// begin. If it fails it has held nothing.
	Hold func(context.Context, Zone) error
	// Release releases the zone's requests to the given side: New after it
	// was moved, Old if that failed. Its context does not end with the
	// rotation's. If it fails the zone counts as held, and it is called again
	// by the next Step, Run or Recover.
	Release func(context.Context, Zone, View) error
	// Trusted is called when copies are durable, and before a record says so. An
	// error means that what was copied since the last record cannot be relied on,
	// as when the keys under the views were lost in between: it stays on the old
	// side, and the rotation stops with that error. Once it fails it must keep
	// failing, and it must report everything since before the views were made:
	// what is read may be recorded several records later.
	Trusted func() error
	// Progress is called when a zone is moved and released.
	Progress func(Progress)
	// Shared reports whether programs use the volume, as far as is known. Their requests
	// wait behind the rotation's copies, so these are then shorter and fewer at a time.
	Shared func() bool
	// MaxHold replaces [Options.MaxHold] before each zone, if that is set.
	MaxHold func() time.Duration
	// Throttle is called before a zone of n bytes is held, and may wait.
	Throttle func(ctx context.Context, n int64) error
}

// Progress is one step of a rotation, done.
type Progress struct {
	Done, Total int64 // bytes under the new key, and all
	Zone        Zone
	Held        time.Duration // from before Hold until after Release
}

// Options are what [NewEngine] is given.
type Options struct {
	Layout  Layout
	Binding Binding
	Views   Views
	Hooks   Hooks
	// CachedMeta says that Meta goes through the page cache, so that what is read of it
	// need not be durable, whatever a flush says: Recover writes the record again.
	CachedMeta bool
	// MaxHold is how long a zone should be held. Zones shrink and grow to fit;
	// 0, or no Hold hook, makes every one [Layout.ZoneSize] long.
	MaxHold time.Duration
	// Lanes is the number of copies at the same time, 0 for 4, and Unit the
	// bytes of each at most, 0 for 1 MiB: their product is the memory taken.
	Lanes, Unit int
	// Now replaces time.Now where time must be made up.
	Now func() time.Time
}

const (
	defaultLanes = 4
	defaultUnit  = 1 << 20
	// smallestUnit is the least that the copies of a zone are cut into, so that
	// all lanes have some of it.
	smallestUnit = 64 << 10
)

// Engine moves one volume. Begin, Recover, Step and Run are for one goroutine
// at a time; Pause and Record may be called from any.
type Engine struct {
	layout     Layout
	binding    Binding
	views      Views
	hooks      Hooks
	cachedMeta bool
	now        func() time.Time
	pace       pace
	copier     *copier
	slots      []byte

	working sync.Mutex
	pause   atomic.Bool
	settled bool // the record is durable and no zone is in between
	held    Zone // not released yet; length 0 if none
	// dropped is a failed flush of the newest record, which was written again: what
	// was being copied beside it is not to be relied on.
	dropped error

	mu     sync.Mutex
	record Record // written under mu by the working goroutine
}

// NewEngine checks the geometry and makes an engine. Nothing is read or written yet.
// Its error is a [*LayoutError].
func NewEngine(o Options) (*Engine, error) {
	l := o.Layout
	if err := l.Validate(); err != nil {
		return nil, err
	}
	if o.Views.Old == nil || o.Views.New == nil || o.Views.Meta == nil || (l.Mode == Journal && o.Views.Raw == nil) {
		return nil, wrong("views", "are missing one that mode %s needs", l.Mode)
	}
	if l.Mode == Gap {
		o.Views.Raw = nil
	}
	if o.Lanes <= 0 {
		o.Lanes = defaultLanes
	}
	if o.Unit <= 0 {
		o.Unit = defaultUnit
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := l.align()
	unit := min(max(roundDown(int64(o.Unit), a), a), l.ZoneSize)
	e := &Engine{
		layout: l, binding: o.Binding, views: o.Views, hooks: o.Hooks, cachedMeta: o.CachedMeta, now: o.Now,
		slots: alignedBuffer(RecordArea),
	}
	piece := e.piece(unit)
	lanes := min(int64(o.Lanes), (l.ZoneSize+piece-1)/piece)
	e.copier = newCopier(&e.views, a, int(lanes), int(unit))
	e.pace = newPace(l, o.MaxHold, o.Hooks.Hold != nil)
	return e, nil
}

// Record is how far the rotation is: a copy of the newest durable record, the
// zero Record before Begin or Recover.
func (e *Engine) Record() Record {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.record
}

func (e *Engine) setRecord(r Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.record = r
}

// Pause makes Step or Run return [ErrPaused] at the next zone boundary, or at
// once when it is next called.
func (e *Engine) Pause() { e.pause.Store(true) }

// Begin writes the first records, durably, into both slots. It comes before the
// header says that a rotation is under way, and may be repeated until data has
// moved; after that it is a [*StartedError].
func (e *Engine) Begin(ctx context.Context) error {
	if !e.working.TryLock() {
		return errBusy
	}
	defer e.working.Unlock()
	if err := e.boundary(ctx); err != nil {
		return err
	}
	if err := e.flush(Meta); err != nil {
		return err
	}
	found, err := readSlots(e.views.Meta, e.layout.RecordOffset, e.slots)
	if err != nil {
		return err
	}
	if r, ok := found.started(e.binding); ok {
		return &StartedError{Record: r}
	}
	// An earlier rotation of a newer program is over, or the header would say so.
	if slices.ContainsFunc(found.newer, func(r Record) bool { return r.UUID == e.binding.UUID && r.Generation >= e.binding.Generation }) {
		return errNewerRecord
	}
	l := e.layout
	r := Record{
		Binding: e.binding, Mode: l.Mode, Direction: l.Direction, Phase: Moving,
		DataSize: l.DataSize, OldOffset: l.OldOffset, NewOffset: l.NewOffset,
		OldSector: l.OldSector, NewSector: l.NewSector, JournalOffset: l.JournalOffset, Position: l.begin(),
	}
	first := found.firstSequence(e.binding)
	for n := range uint64(2) {
		r.Sequence = first + n
		if err := e.writeRecord(r); err != nil {
			return fmt.Errorf("first rotation record: %w", err)
		}
	}
	e.setRecord(r)
	e.settled = true
	return nil
}

// boundary is where a rotation may stop.
func (e *Engine) boundary(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrPaused, context.Cause(ctx))
	}
	if e.pause.Swap(false) {
		return ErrPaused
	}
	return nil
}

func (e *Engine) flush(v View) error {
	if err := e.views.writer(v).Flush(); err != nil {
		return &IOError{Op: "flush", View: v, Err: err}
	}
	return nil
}
