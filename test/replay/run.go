// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	"imxcrypt/internal/crashtest"
	"imxcrypt/test/vm"
)

// TB is the part of testing.TB that this package uses.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Tape is a disk that is being recorded.
type Tape struct {
	file string // of the log
	base *crashtest.Image
}

// Load reads the contents of a disk before the recorded machine starts. The disk's
// LogWrites must be set.
func Load(t TB, disk *vm.Disk) *Tape {
	t.Helper()
	if disk.LogWrites == "" {
		t.Fatalf("replay: %s is not recorded", disk.Path)
	}
	base, err := readImage(disk.Path)
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	// Drop the log of an earlier boot.
	if err := os.WriteFile(disk.LogWrites, nil, 0o600); err != nil {
		t.Fatalf("replay: %v", err)
	}
	return &Tape{file: disk.LogWrites, base: base}
}

// Place is a place in a log: the number of entries before it.
type Place int

// Now returns the place after everything that the guest knows to be complete.
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

// Changes returns the writes and discards between two places.
func (p *Tape) Changes(t TB, from, to Place) []Entry {
	t.Helper()
	l, err := p.log()
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	var changes []Entry
	for _, e := range l.Entries[from:to] {
		if e.Length > 0 {
			changes = append(changes, e)
		}
	}
	return changes
}

// Run returns what was recorded so far, ready to be replayed.
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
	// epochs counts the flushes before each place.
	epochs []int
}

// NewRun puts a log into the model. The base must not be written to afterwards.
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

// Durable reports whether a state has everything that was complete and flushed at a
// place. What a program was promised to be safe there must be in the state.
func (r *Run) Durable(s *crashtest.State, at Place) bool { return s.Epoch >= r.epochs[at] }

// Flushes returns the number of flushes between two places; to 0 is the end. Each is a
// boundary: power can be cut right before it.
func (r *Run) Flushes(from, to Place) int { return r.upTo(to) - r.epochs[from] }

func (r *Run) upTo(to Place) int {
	if to == 0 {
		return r.epochs[len(r.epochs)-1]
	}
	return r.epochs[to]
}

// Options select among the states of a run.
type Options struct {
	// From and To bound the cuts: power is cut at one of the flushes between the two
	// places, or when the last of them is done. To 0 is the end.
	From, To Place
	// Cuts is the number of these flushes at which power is cut, evenly spread and
	// including the last one; 0 for all.
	Cuts int
	// PerCut is the number of states taken at each flush; 0 for all that Crash allows.
	PerCut int
	// Seed of the selection.
	Seed uint64
	// Crash bounds the enumeration from which states are selected.
	Crash crashtest.Options
}

// Sample returns a selection of the model's states, in the order of the log. It is the
// same for the same seed. It skips no flush unless Cuts is set. If only some states of
// a flush are taken, the first has lost everything that was not flushed, and the others
// alternately lost whole writes and tore one. If only one is taken, it is of either
// kind.
func (r *Run) Sample(o Options) []*crashtest.State {
	first, last := r.epochs[o.From], r.upTo(o.To)
	o.Crash.Seed = o.Seed
	o.Crash.Epochs = func(n int) bool { return n >= first && n <= last && o.spread(n-first, last-first) }
	rng := rand.New(rand.NewPCG(o.Seed, 1))
	var all, cut []*crashtest.State
	take := func() {
		all = append(all, pick(cut, o.PerCut, rng)...)
		cut = nil
	}
	for s := range r.rec.States(o.Crash) {
		if o.To > 0 && s.Epoch == last && s.Loss() != crashtest.LostAll {
			continue // written after the place
		}
		if len(cut) > 0 && cut[0].Epoch != s.Epoch {
			take()
		}
		cut = append(cut, s)
	}
	take()
	return all
}

// spread reports whether n is selected when Cuts are spread over the numbers from 0 to
// last.
func (o Options) spread(n, last int) bool {
	if o.Cuts == 0 || o.Cuts > last {
		return true
	}
	return (n+1)*o.Cuts/(last+1) > n*o.Cuts/(last+1)
}

// Count returns the number of states to select from, at all of the flushes.
func (r *Run) Count(o Options) int {
	o.Cuts, o.PerCut = 0, 0
	return len(r.Sample(o))
}

// pick takes n of the states of one cut.
func pick(cut []*crashtest.State, n int, rng *rand.Rand) []*crashtest.State {
	if n == 0 || len(cut) <= n {
		return cut
	}
	kinds := map[crashtest.Loss][]int{}
	for _, i := range rng.Perm(len(cut)) {
		kinds[cut[i].Loss()] = append(kinds[cut[i].Loss()], i)
	}
	turn := []crashtest.Loss{crashtest.LostWrites, crashtest.Torn}
	if n == 1 {
		turn = append(turn, crashtest.LostAll)
	}
	rng.Shuffle(len(turn), func(i, j int) { turn[i], turn[j] = turn[j], turn[i] })
	if n > 1 {
		turn = append([]crashtest.Loss{crashtest.LostAll}, turn...)
	}
	// A state that lost nothing is the next flush's state that lost everything.
	rest := append(slices.Clone(turn), crashtest.LostNone)
	var chosen []int
	for len(chosen) < n {
		before := len(chosen)
		for _, kind := range turn {
			if list := kinds[kind]; len(list) > 0 && len(chosen) < n {
				chosen, kinds[kind] = append(chosen, list[0]), list[1:]
			}
		}
		if len(chosen) == before {
			turn = rest
		}
	}
	slices.Sort(chosen)
	out := make([]*crashtest.State, n)
	for k, i := range chosen {
		out[k] = cut[i]
	}
	return out
}

// Distinct keeps one of those states whose disks have the same contents: the last, from
// which the most is expected, because what is durable stays durable.
func (r *Run) Distinct(states []*crashtest.State) []*crashtest.State {
	last := map[[sha256.Size]byte]int{}
	sums := make([][sha256.Size]byte, len(states))
	for i, s := range states {
		sums[i] = contentOf(r.Image(s))
		last[sums[i]] = i
	}
	var out []*crashtest.State
	for i, s := range states {
		if last[sums[i]] == i {
			out = append(out, s)
		}
	}
	return out
}

// contentOf returns a hash of a disk's non-zero contents.
func contentOf(im *crashtest.Image) [sha256.Size]byte {
	h := sha256.New()
	b, zero := make([]byte, pieceSize), make([]byte, pieceSize)
	for off := int64(0); off < im.Size(); off += pieceSize {
		n := min(pieceSize, im.Size()-off)
		if _, err := im.ReadAt(b[:n], off); err != nil {
			panic(err) // the range is the image's own
		}
		if bytes.Equal(b[:n], zero[:n]) {
			continue
		}
		binary.Write(h, binary.LittleEndian, off) // writing to a hash cannot fail
		h.Write(b[:n])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Image returns the disk in that state, as a new image at each call.
func (r *Run) Image(s *crashtest.State) *crashtest.Image { return s.Image(r.device) }

// Final returns the disk after the whole run.
func (r *Run) Final() *crashtest.Image { return r.device.Live() }

// Lay writes a state's image to the file of a disk of the same size as the recorded
// one, which must not be recorded itself. Nothing in the machine may have it open.
func (r *Run) Lay(t TB, disk *vm.Disk, s *crashtest.State) {
	t.Helper()
	if disk.LogWrites != "" {
		t.Fatalf("replay: %s is recorded", disk.Path)
	}
	if err := WriteImage(disk.Path, r.Image(s)); err != nil {
		t.Fatalf("replay: %v", err)
	}
}

// pieceSize is the number of bytes compared and written at a time.
const pieceSize = 64 << 10

// WriteImage changes a file of the image's size into the image, in place. It writes
// only what differs.
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

// readImage reads a file, which may be sparse, into memory.
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
