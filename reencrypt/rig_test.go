// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"imxcrypt/internal/crashtest"
)

// setup is one small volume and the way it is rotated.
type setup struct {
	mode                 Mode
	direction            Direction
	oldSector, newSector int
	zone, data           int64
	journal              int64 // its size; 0 for that of a zone
}

func (s setup) String() string {
	return fmt.Sprintf("%s %s, crypt sectors %d to %d", s.mode, s.direction, s.oldSector, s.newSector)
}

// testMargin is the space on both sides of the data that must not be touched.
const testMargin = 4096

func (s setup) layout() Layout {
	l := Layout{
		Mode: s.mode, Direction: s.direction, DataSize: s.data, OldOffset: testMargin, NewOffset: testMargin,
		OldSector: s.oldSector, NewSector: s.newSector, LogicalBlock: SectorSize, ZoneSize: s.zone,
		Start: testMargin, End: testMargin + s.data, RecordOffset: 4096,
	}
	switch {
	case s.mode == Journal:
		l.JournalOffset, l.JournalSize = l.RecordOffset+RecordArea, max(s.zone, s.journal)
	case s.direction == Forward:
		l.OldOffset += s.zone
		l.End += s.zone
	default:
		l.NewOffset += s.zone
		l.End += s.zone
	}
	return l
}

var testBinding = Binding{UUID: [16]byte{1, 2, 3}, Generation: 7}

// rig is a volume on two recorded disks. Two disks, each with its own cache, can leave
// every state that one disk with one cache can leave, and more, since on one disk every
// flush is for both.
type rig struct {
	setup
	l         Layout
	rec       *crashtest.Recorder
	raw, meta *crashtest.Disk
	old, new  *cryptView
}

// newRig makes a rig over disks with the given content.
func newRig(t testing.TB, s setup, raw, meta *crashtest.Image) *rig {
	t.Helper()
	r := &rig{setup: s, l: s.layout()}
	r.rec, r.raw = crashtest.Record(raw)
	r.meta = r.rec.Disk("header", meta)
	r.old = newCryptView(t, r.raw, 0x11, s.oldSector, r.l.OldOffset, s.data)
	r.new = newCryptView(t, r.raw, 0x77, s.newSector, r.l.NewOffset, s.data)
	return r
}

// emptyRig makes a rig over disks with noise outside the records.
func emptyRig(t testing.TB, s setup) *rig {
	t.Helper()
	l := s.layout()
	raw := make([]byte, l.End+testMargin)
	meta := make([]byte, l.RecordOffset+RecordArea+l.JournalSize+testMargin)
	noise(raw, 1)
	noise(meta[:l.RecordOffset], 2)
	return newRig(t, s, imageOf(t, raw), imageOf(t, meta))
}

func imageOf(t testing.TB, b []byte) *crashtest.Image {
	t.Helper()
	im := crashtest.NewImage(int64(len(b)))
	if _, err := im.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return im
}

// restarted returns a rig over what the disks hold now, with an empty log: what a killed
// process leaves.
func (r *rig) restarted(t testing.TB) *rig { return newRig(t, r.setup, r.raw.Live(), r.meta.Live()) }

func noise(b []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, seed))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

func (r *rig) options() Options {
	return Options{
		Layout: r.l, Binding: testBinding, Lanes: 1, Unit: 2048,
		Views: Views{Old: r.old, New: r.new, Raw: r.raw, Meta: r.meta},
	}
}

func (r *rig) engine(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := NewEngine(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// fill writes the volume's first content through the old mapping.
func (r *rig) fill(t testing.TB) []byte {
	t.Helper()
	want := make([]byte, r.data)
	noise(want, 3)
	if _, err := r.old.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	return want
}

// started returns a rig with content and first records, and an empty log.
func started(t testing.TB, s setup) (*rig, []byte) {
	t.Helper()
	r := emptyRig(t, s)
	want := r.fill(t)
	if err := r.engine(t, r.options()).Begin(context.Background()); err != nil {
		t.Fatal(err)
	}
	return r.restarted(t), want
}

// view returns the mapping of one side.
func (r *rig) view(side View) *cryptView {
	if side == New {
		return r.new
	}
	return r.old
}

// read returns the whole volume as the pieces show it.
func (r *rig) read(pieces []Piece) ([]byte, error) {
	got := make([]byte, r.data)
	next := int64(0)
	for _, p := range pieces {
		if p.Start != next {
			return nil, fmt.Errorf("hole or overlap at %d", next)
		}
		next = p.Start + p.Length
		v := r.view(p.Side)
		if p.Offset != v.offset+p.Start {
			return nil, fmt.Errorf("piece at %d has offset %d, the mapping %d", p.Start, p.Offset, v.offset+p.Start)
		}
		if _, err := v.ReadAt(got[p.Start:next], p.Start); err != nil {
			return nil, err
		}
	}
	if next != r.data {
		return nil, fmt.Errorf("pieces end at %d of %d", next, r.data)
	}
	return got, nil
}

// firstDifference returns -1 if the contents are equal.
func firstDifference(got, want []byte) int {
	for i := range want {
		if got[i] != want[i] {
			return i
		}
	}
	return -1
}

// settle does what the next run does: it recovers, lets the data be checked, and
// continues to the end, which may change nothing.
func (r *rig) settle(o Options, check func(got []byte) error) error {
	e, err := NewEngine(o)
	if err != nil {
		return err
	}
	rec, err := e.Recover(context.Background())
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	got, err := r.read(rec.Pieces())
	if err != nil {
		return err
	}
	if err := check(got); err != nil {
		return fmt.Errorf("after recovery at %d (%s): %w", rec.Position, rec.Phase, err)
	}
	if err := e.Run(context.Background()); err != nil {
		return fmt.Errorf("resumed: %w", err)
	}
	end, err := r.read(e.Record().Pieces())
	if err != nil {
		return err
	}
	if !bytes.Equal(end, got) {
		return fmt.Errorf("resumed rotation changed byte %d", firstDifference(end, got))
	}
	if e.Record().Phase != Finished || e.Record().Done() != r.data {
		return fmt.Errorf("resumed rotation ended at %+v", e.Record())
	}
	return nil
}

func same(want []byte) func([]byte) error {
	return func(got []byte) error {
		if i := firstDifference(got, want); i >= 0 {
			return fmt.Errorf("byte %d (sector %d) lost", i, i/SectorSize)
		}
		return nil
	}
}
