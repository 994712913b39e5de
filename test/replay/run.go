// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"

	"imxcrypt/internal/crashtest"
	"imxcrypt/test/vm"
)

// TB is the part of testing.TB that is used here.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Tape is a disk that is recorded.
type Tape struct {
	file string // of the log
	base *crashtest.Image
}

// Load takes the content of a disk before the machine that is recorded is
// started. Its LogWrites must be set.
func Load(t TB, disk *vm.Disk) *Tape {
	t.Helper()
	if disk.LogWrites == "" {
		t.Fatalf("replay: %s is not recorded", disk.Path)
	}
	base, err := readImage(disk.Path)
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	// The log of an earlier boot is not this one's.
	if err := os.WriteFile(disk.LogWrites, nil, 0o600); err != nil {
		t.Fatalf("replay: %v", err)
	}
	return &Tape{file: disk.LogWrites, base: base}
}

// Place is a place in a log: the number of entries before it.
type Place int

// Now is the place behind everything that the guest knows to be complete.
func (p *Tape) Now(t TB) Place {
	t.Helper()
	l, err := p.log()
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	return Place(len(l.Entries))
}

func (p *Tape) log() (*Log, error) {
	b, err := os.ReadFile(p.file)
	if err != nil || len(b) == 0 {
		return &Log{}, err // nothing was done yet
	}
	return Parse(b)
}

// Run is what was recorded so far, ready to be replayed.
func (p *Tape) Run(t TB) *Run {
	t.Helper()
	l, err := p.log()
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	r, err := NewRun(p.base, l)
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	return r
}

// Run is a recorded run: what was on the disk before it, and what was done.
type Run struct {
	rec    *crashtest.Recorder
	device *crashtest.Disk
	// epochs tells for each place how many flushes there are before it.
	epochs []int
}

// NewRun puts a log into the model. The base cannot be written to any more.
func NewRun(base *crashtest.Image, l *Log) (*Run, error) {
	r := &Run{}
	r.rec, r.device = crashtest.Record(base)
	for n, e := range l.Entries {
		r.epochs = append(r.epochs, r.rec.Epochs())
		if err := r.add(e); err != nil {
			return nil, fmt.Errorf("entry %d, %v: %w", n, e, err)
		}
	}
	r.epochs = append(r.epochs, r.rec.Epochs())
	return r, nil
}

func (r *Run) add(e Entry) error {
	if e.Mark != "" {
		return nil
	}
	if e.Flush {
		if err := r.device.Flush(); err != nil {
			return err
		}
	}
	switch {
	case e.Discard:
		if e.Off+e.Length > r.device.Size() {
			return fmt.Errorf("behind the end of the disk of %d bytes", r.device.Size())
		}
		return r.device.Discard(e.Off, e.Length, false)
	case e.FUA:
		_, err := r.device.WriteThrough(e.Data, e.Off)
		return err
	}
	_, err := r.device.WriteAt(e.Data, e.Off)
	return err
}

// Durable reports whether everything that was complete at a place, and flushed
// by then, is there in a state: what a program was told to be safe there must be.
func (r *Run) Durable(s *crashtest.State, at Place) bool { return s.Epoch >= r.epochs[at] }

// Options choose among the states of a run.
type Options struct {
	// From and To bound the cuts: the power goes at one of the flushes between
	// the two places. To 0 is the end.
	From, To Place
	// PerCut is how many states are taken at each flush; 0 for all that Crash
	// allows.
	PerCut int
	// Max bounds the whole, evenly over the cuts; 0 for no bound. Without PerCut
	// each flush gets its share of it.
	Max int
	// Seed of the choice.
	Seed uint64
	// Crash bounds the enumeration that is chosen from.
	Crash crashtest.Options
}

// Sample is a choice among the states of the model, in the order of the log, and
// the same one for the same seed. Where only some of a cut are taken, one with
// everything lost that could be is among them for every second cut.
func (r *Run) Sample(o Options) []*crashtest.State {
	first, last := r.epochs[o.From], r.epochs[len(r.epochs)-1]
	if o.To > 0 {
		// What is written from there on comes before the next flush.
		last = max(first, r.epochs[o.To]-1)
	}
	if o.PerCut == 0 && o.Max > 0 {
		o.PerCut = (o.Max + last - first) / (last - first + 1)
	}
	o.Crash.Seed = o.Seed
	o.Crash.Epochs = func(n int) bool { return n >= first && n <= last }
	rng := rand.New(rand.NewPCG(o.Seed, 1))
	var all, cut []*crashtest.State
	take := func() {
		all = append(all, pick(cut, o.PerCut, rng)...)
		cut = nil
	}
	for s := range r.rec.States(o.Crash) {
		if len(cut) > 0 && cut[0].Epoch != s.Epoch {
			take()
		}
		cut = append(cut, s)
	}
	take()
	if o.Max > 0 && len(all) > o.Max {
		even := make([]*crashtest.State, o.Max)
		for i := range even {
			even[i] = all[i*len(all)/o.Max]
		}
		all = even
	}
	return all
}

// Count is how many states there are to choose from.
func (r *Run) Count(o Options) int {
	o.PerCut, o.Max = 0, 0
	return len(r.Sample(o))
}

// pick takes n of the states of one cut. The first of them has nothing of what
// was not flushed.
func pick(cut []*crashtest.State, n int, rng *rand.Rand) []*crashtest.State {
	if n == 0 || len(cut) <= n {
		return cut
	}
	first := 0
	if rng.IntN(2) == 0 {
		first = rng.IntN(len(cut))
	}
	chosen := map[int]bool{first: true}
	for len(chosen) < n {
		chosen[rng.IntN(len(cut))] = true
	}
	var out []*crashtest.State
	for i, s := range cut {
		if chosen[i] {
			out = append(out, s)
		}
	}
	return out
}

// Image is the disk in that state, a new one at each call.
func (r *Run) Image(s *crashtest.State) *crashtest.Image { return s.Image(r.device) }

// Final is the disk after all of the run.
func (r *Run) Final() *crashtest.Image { return r.device.Live() }

// Lay puts a state's image under a disk of the recorded one's size, which must
// not be recorded itself. Nothing in the machine may have it open.
func (r *Run) Lay(t TB, disk *vm.Disk, s *crashtest.State) {
	t.Helper()
	if disk.LogWrites != "" {
		t.Fatalf("replay: %s is recorded", disk.Path)
	}
	if err := WriteImage(disk.Path, r.Image(s)); err != nil {
		t.Fatalf("replay: %v", err)
	}
}

// pieceSize is what is compared and written at a time, in bytes.
const pieceSize = 64 << 10

// WriteImage changes a file of an image's size, in place, into the image. Only
// what differs is written.
func WriteImage(path string, im *crashtest.Image) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != im.Size() {
		return fmt.Errorf("%s is not of the image's %d bytes: %w", path, im.Size(), err)
	}
	was, is := make([]byte, pieceSize), make([]byte, pieceSize)
	for off := int64(0); off < im.Size(); off += pieceSize {
		n := min(pieceSize, im.Size()-off)
		if _, err := f.ReadAt(was[:n], off); err != nil {
			return err
		}
		if _, err := im.ReadAt(is[:n], off); err != nil {
			return err
		}
		if bytes.Equal(was[:n], is[:n]) {
			continue
		}
		if _, err := f.WriteAt(is[:n], off); err != nil {
			return err
		}
	}
	return f.Close()
}

// readImage takes a file, sparse as it may be, into memory.
func readImage(path string) (*crashtest.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	im := crashtest.NewImage(st.Size())
	b, zero := make([]byte, pieceSize), make([]byte, pieceSize)
	for off := int64(0); off < st.Size(); off += pieceSize {
		n := min(pieceSize, st.Size()-off)
		if _, err := f.ReadAt(b[:n], off); err != nil {
			return nil, err
		}
		if bytes.Equal(b[:n], zero[:n]) {
			continue
		}
		if _, err := im.WriteAt(b[:n], off); err != nil {
			return nil, err
		}
	}
	return im, nil
}
