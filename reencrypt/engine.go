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

// Writer is a view that can be written. Flush makes durable what was written before it.
type Writer interface {
	io.WriterAt
	Flush() error
}

// ReadWriter is a view that can be both read and written.
type ReadWriter interface {
	io.ReaderAt
	Writer
}

// Views are what a rotation works on. Requests are aligned, in address, offset and
// length, to the larger of crypt sector and logical block. Requests to Meta are aligned
// at least to the logical block if [Layout.RecordOffset] is aligned to 4096. All views
// must take calls from several goroutines, as files do, and must not be cached above the
// device (O_DIRECT): Old, New and Raw show the same bytes.
type Views struct {
	Old  io.ReaderAt // plaintext; byte 0 is the volume's first
	New  Writer      // the same through the new mapping
	Raw  ReadWriter  // ciphertext; byte 0 is the data device's first; mode Journal only
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

// Hooks let a rotation run while the volume is in use. Any of them may be nil if the
// volume is not in use or no one listens. They are called from the goroutine that runs
// the rotation.
type Hooks struct {
	// Hold must return only when no write to the zone is in flight and none can begin. If
	// it fails, it must hold nothing.
	Hold func(context.Context, Zone) error
	// Release releases the zone's requests to the given side: New after the zone was
	// moved, Old if that failed. Its context outlives the rotation's. If it fails, the
	// zone counts as held, and the next Step, Run or Recover calls it again.
	Release func(context.Context, Zone, View) error
	// Trusted is called when copies are durable, before a record says so. An error means
	// that what was copied since the last record cannot be relied on, for example because
	// the keys under the views were lost in between. The copied data then stays on the
	// old side, and the rotation stops with that error. Once Trusted fails it must keep
	// failing, and it must report everything since before the views were made: what is
	// read may be recorded several records later.
	Trusted func() error
	// Progress is called when a zone has been moved and released.
	Progress func(Progress)
	// Shared reports whether programs use the volume, as far as is known. Their requests
	// wait behind the rotation's copies, so the copies are then shorter and fewer at a
	// time.
	Shared func() bool
	// MaxHold replaces [Options.MaxHold] before each zone, if that option is set.
	MaxHold func() time.Duration
	// Throttle is called before a zone of n bytes is held, and may wait.
	Throttle func(ctx context.Context, n int64) error
}

// Progress describes one finished step of a rotation.
type Progress struct {
	Done, Total int64 // bytes under the new key, and all bytes
	Zone        Zone
	Held        time.Duration // from before Hold until after Release
}

// Options are the arguments of [NewEngine].
type Options struct {
	Layout  Layout
	Binding Binding
	Views   Views
	Hooks   Hooks
	// CachedMeta says that Meta goes through the page cache. What is read from it may
	// then not be durable, whatever a flush says, so Recover writes the record again.
	CachedMeta bool
	// MaxHold is how long a zone should be held. Zones shrink and grow to fit;
	// 0, or no Hold hook, makes every one [Layout.ZoneSize] long.
	MaxHold time.Duration
	// Lanes is the number of concurrent copies (0 means 4), and Unit the maximum bytes of
	// each (0 means 1 MiB). Their product is the memory used.
	Lanes, Unit int
	// Now replaces time.Now where time is simulated.
	Now func() time.Time
}

const (
	defaultLanes = 4
	defaultUnit  = 1 << 20
	// smallestUnit is the smallest piece that a zone is cut into so that every lane has
	// some of it.
	smallestUnit = 64 << 10
)

// Engine moves one volume. Only one goroutine at a time may use Begin, Recover, Step and
// Run. Pause and Record may be called from any.
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
	settled bool // the record is durable and no zone is in transit
	held    Zone // not released yet; length 0 if there is none
	// dropped is the error of a failed flush of the newest record, which was then written
	// again: what was being copied at that time cannot be relied on.
	dropped error

	mu     sync.Mutex
	record Record // written under mu by the working goroutine
}

// NewEngine checks the geometry and makes an engine. It reads and writes nothing. Its
// error is a [*LayoutError].
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

// Record returns how far the rotation is: a copy of the newest durable record, or the
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

// Pause makes Step or Run return [ErrPaused] at the next zone boundary. If neither is
// running, the next call returns at once.
func (e *Engine) Pause() { e.pause.Store(true) }

// Begin writes the first records, durably, into both slots. It must be called before the
// header says that a rotation is under way. It may be repeated until data has moved;
// after that it returns a [*StartedError].
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
	// An earlier rotation by a newer program is over; otherwise the header would say so.
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

// boundary returns an error if the rotation is to stop here, between two zones.
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
