// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func write(t *testing.T, w io.WriterAt, off int64, b []byte) {
	t.Helper()
	if _, err := w.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, r io.ReaderAt, off, n int64) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := r.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

func sectors(n int, v byte) []byte { return bytes.Repeat([]byte{v}, n*sector) }

// contents returns the first byte of each of the first n sectors, in every state.
func contents(t *testing.T, r *Recorder, d *Disk, n int64, o Options) []string {
	t.Helper()
	var all []string
	for s := range r.States(o) {
		im := s.Image(d)
		var b []byte
		for i := range n {
			b = append(b, read(t, im, i*sector, 1)[0])
		}
		all = append(all, string(b))
	}
	return all
}

func TestFewPendingSectorsGiveAllSubsets(t *testing.T) {
	t.Parallel()
	r, d := Record(NewFilledImage(1<<20, '.'))
	write(t, d, 0, append(sectors(1, 'a'), sectors(2, 'b')...))
	got := contents(t, r, d, 3, Options{})
	slices.Sort(got)
	want := []string{"...", "..b", ".b.", ".bb", "a..", "a.b", "ab.", "abb"}
	if !slices.Equal(got, want) {
		t.Errorf("states %q, want %q", got, want)
	}
	if n := r.Count(Options{}); n != len(want) {
		t.Errorf("count %d, want %d", n, len(want))
	}
}

func TestWhatWasFlushedIsNeverLost(t *testing.T) {
	t.Parallel()
	r, d := Record(NewFilledImage(1<<20, '.'))
	write(t, d, 0, sectors(1, 'a'))
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	write(t, d, sector, sectors(1, 'b'))
	got := contents(t, r, d, 2, Options{})
	if want := []string{"..", "a.", "a.", "ab"}; !slices.Equal(got, want) {
		t.Errorf("states %q, want %q", got, want)
	}
}

func TestAFlushSaysNothingAboutAnotherDisk(t *testing.T) {
	t.Parallel()
	r := &Recorder{}
	a, b := r.Disk("a", NewFilledImage(sector, '.')), r.Disk("b", NewFilledImage(sector, '.'))
	write(t, a, 0, sectors(1, 'a'))
	write(t, b, 0, sectors(1, 'b'))
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for s := range r.States(Options{}) {
		got = append(got, string(read(t, s.Image(a), 0, 1))+string(read(t, s.Image(b), 0, 1)))
	}
	if want := []string{"..", "a.", ".b", "ab", ".b", "ab"}; !slices.Equal(got, want) {
		t.Errorf("states %q, want %q", got, want)
	}
}

func TestLaterOverlappingWriteWins(t *testing.T) {
	t.Parallel()
	r, d := Record(NewFilledImage(sector, '.'))
	write(t, d, 0, sectors(1, 'a'))
	write(t, d, 0, sectors(1, 'b'))
	got := contents(t, r, d, 1, Options{})
	if want := []string{".", "a", "b", "b"}; !slices.Equal(got, want) {
		t.Errorf("states %q, want %q", got, want)
	}
}

func TestAWriteThatIsUndoneLaterStillCounts(t *testing.T) {
	t.Parallel()
	r, d := Record(NewFilledImage(sector, '.'))
	write(t, d, 0, sectors(1, 'a'))
	write(t, d, 0, sectors(1, '.'))
	if got := contents(t, r, d, 1, Options{}); !slices.Contains(got, "a") {
		t.Errorf("states %q have none with the first write alone", got)
	}
}

func TestSectorsThatDoNotChangeAreNotCounted(t *testing.T) {
	t.Parallel()
	r, d := Record(NewFilledImage(1<<20, 0))
	block := make([]byte, 64*sector)
	block[5*sector] = 1
	write(t, d, 0, block)
	if n := r.Count(Options{}); n != 2 {
		t.Errorf("%d states for one changed sector of 64, want 2", n)
	}
}

func TestLongWriteIsLostWholeByHalvesAndBySector(t *testing.T) {
	t.Parallel()
	const n = 32
	r, d := Record(NewFilledImage(1<<20, '.'))
	write(t, d, 0, sectors(n, 'x'))
	got := map[string]bool{}
	for _, s := range contents(t, r, d, n, Options{Random: -1}) {
		if got[s] {
			t.Errorf("state %q twice", s)
		}
		got[s] = true
	}
	state := func(there func(i int) bool) string {
		b := bytes.Repeat([]byte{'.'}, n)
		for i := range b {
			if there(i) {
				b[i] = 'x'
			}
		}
		return string(b)
	}
	for k := range n {
		for name, want := range map[string]string{
			"prefix":   state(func(i int) bool { return i < k }),
			"suffix":   state(func(i int) bool { return i >= k }),
			"loss":     state(func(i int) bool { return i != k }),
			"survivor": state(func(i int) bool { return i == k }),
		} {
			if !got[want] {
				t.Errorf("%s %d missing: %q", name, k, want)
			}
		}
	}
	// 33 prefixes, 31 proper suffixes, 32 losses and 32 survivors, of which the
	// first and last of each are prefixes or suffixes already.
	if want := 33 + 31 + 32 + 32 - 4; len(got) != want {
		t.Errorf("%d states, want %d", len(got), want)
	}
}

func TestManyWritesAreLostEachAndAsPrefixes(t *testing.T) {
	t.Parallel()
	const n = 20
	r, d := Record(NewFilledImage(1<<20, '.'))
	for i := range int64(n) {
		write(t, d, i*sector, sectors(1, 'x'))
	}
	got := contents(t, r, d, n, Options{})
	for k := range n {
		prefix := bytes.Repeat([]byte{'x'}, k)
		prefix = append(prefix, bytes.Repeat([]byte{'.'}, n-k)...)
		loss := bytes.Repeat([]byte{'x'}, n)
		loss[k] = '.'
		if !slices.Contains(got, string(prefix)) || !slices.Contains(got, string(loss)) {
			t.Errorf("prefix or loss %d missing", k)
		}
	}
}

func TestLimitKeepsBothEndsAndTheSeedDecides(t *testing.T) {
	t.Parallel()
	record := func() (*Recorder, *Disk) {
		r, d := Record(NewImage(64 << 10))
		write(t, d, 0, sectors(128, 'x'))
		return r, d
	}
	o := Options{Limit: 16, Random: 8, Seed: 7}
	list := func(o Options) []string {
		r, d := record()
		var all []string
		for s := range r.States(o) {
			all = append(all, string(s.Image(d).Bytes()))
		}
		return all
	}
	a := list(o)
	if len(a) > 8*16 {
		t.Errorf("%d states with a limit of 16 a kind", len(a))
	}
	if !slices.Equal(a, list(o)) {
		t.Error("the same seed gave other states")
	}
	o.Seed++
	if slices.Equal(a, list(o)) {
		t.Error("another seed gave the same states")
	}
}

func TestDiscardMayBeThereMissingOrTorn(t *testing.T) {
	t.Parallel()
	base := NewFilledImage(1<<20, '.')
	write(t, base, 0, sectors(4, 'x'))
	r, d := Record(base)
	if err := d.Discard(0, 4*sector, false); err != nil {
		t.Fatal(err)
	}
	got := contents(t, r, d, 4, Options{})
	for _, want := range []string{"xxxx", "....", "..xx"} {
		if !slices.Contains(got, want) {
			t.Errorf("states %q, %q missing", got, want)
		}
	}
}

func TestUpdateInPlaceIsCaught(t *testing.T) {
	t.Parallel()
	// The reason for the package: a program that overwrites its only copy in one
	// write of two sectors loses it in some state.
	base := NewImage(sector * 2)
	write(t, base, 0, sectors(2, 'o'))
	r, d := Record(base)
	write(t, d, 0, sectors(2, 'n'))
	lost := 0
	for s := range r.States(Options{}) {
		if b := s.Image(d).Bytes(); b[0] != b[sector] {
			lost++
		}
	}
	if lost != 2 {
		t.Errorf("%d torn states found, want 2", lost)
	}
}

func TestBeforeCanFailAnOperation(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	r, d := Record(NewFilledImage(1<<20, '.'))
	r.Before = func(n int, op Op) error {
		if n == 1 && op.Kind == Flush {
			return broken
		}
		return nil
	}
	write(t, d, 0, sectors(1, 'a'))
	if err := d.Flush(); !errors.Is(err, broken) {
		t.Fatalf("flush: %v", err)
	}
	if log := r.Log(); len(log) != 1 {
		t.Errorf("log after a failed flush: %v", log)
	}
	if got := read(t, d.Live(), 0, 1); got[0] != 'a' {
		t.Errorf("the killed process' disk has %q", got)
	}
}

func TestImageIsADiskOfLayers(t *testing.T) {
	t.Parallel()
	const size = 5*pageSize + 100
	model := bytes.Repeat([]byte{0xff}, size)
	im := NewFilledImage(size, 0xff)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		off := rng.IntN(size)
		b := bytes.Repeat([]byte{byte(rng.IntN(256))}, rng.IntN(size-off+1))
		if _, err := im.WriteAt(b, int64(off)); err != nil {
			t.Fatal(err)
		}
		copy(model[off:], b)
		if rng.IntN(2) == 0 {
			below := im
			im = im.Overlay()
			if _, err := below.WriteAt([]byte{1}, 0); err == nil {
				t.Fatal("a layer below an overlay took a write")
			}
		}
		if im.depth > maxDepth+1 {
			t.Fatalf("%d layers", im.depth)
		}
		if !bytes.Equal(im.Bytes(), model) {
			t.Fatal("content differs from the model")
		}
	}
	if _, err := im.WriteAt([]byte{1, 2}, size-1); err == nil {
		t.Error("write over the end succeeded")
	}
	b := make([]byte, 10)
	if n, err := im.ReadAt(b, size-4); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("read over the end: %d, %v", n, err)
	}
	if n, err := im.ReadAt(b, size); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read behind the end: %d, %v", n, err)
	}
}

func TestAWriteThroughIsDurableAndFlushesNothingElse(t *testing.T) {
	t.Parallel()
	r, d := Record(NewFilledImage(2*sector, '.'))
	write(t, d, 0, sectors(1, 'a'))
	if r.Epochs() != 0 {
		t.Errorf("%d epochs before anything was flushed", r.Epochs())
	}
	if _, err := d.WriteThrough(sectors(1, 'b'), sector); err != nil {
		t.Fatal(err)
	}
	done := r.Epochs()
	var during, after []string
	for s := range r.States(Options{}) {
		got := string(read(t, s.Image(d), 0, 1)) + string(read(t, s.Image(d), sector, 1))
		if s.Epoch < done {
			during = append(during, got)
		} else {
			after = append(after, got)
		}
	}
	if want := []string{"..", "a.", ".b", "ab"}; !slices.Equal(during, want) {
		t.Errorf("while it is written: %q, want %q", during, want)
	}
	if want := []string{".b", "ab"}; !slices.Equal(after, want) {
		t.Errorf("once it is done: %q, want %q", after, want)
	}
}

func TestAWriteThroughCoversWhatWasPendingBelowIt(t *testing.T) {
	t.Parallel()
	r, d := Record(NewFilledImage(sector, '.'))
	write(t, d, 0, sectors(1, 'a'))
	if _, err := d.WriteThrough(sectors(1, 'b'), 0); err != nil {
		t.Fatal(err)
	}
	done := r.Epochs()
	for s := range r.States(Options{}) {
		if got := read(t, s.Image(d), 0, 1)[0]; s.Epoch >= done && got != 'b' {
			t.Errorf("%v: %q", s, got)
		}
	}
}

func TestStorageThatWritesMoreThanASectorAsAWholeTearsBetween(t *testing.T) {
	t.Parallel()
	r, d := Record(NewFilledImage(16*sector, '.'))
	write(t, d, 6*sector, sectors(4, 'x')) // across the border between two runs of eight sectors
	var got []string
	for s := range r.States(Options{Tear: 8 * sector}) {
		var b []byte
		for i := range int64(16) {
			b = append(b, read(t, s.Image(d), i*sector, 1)[0])
		}
		got = append(got, string(b))
	}
	want := []string{"................", "......xx........", "........xx......", "......xxxx......"}
	if !slices.Equal(got, want) {
		t.Errorf("states %q, want %q", got, want)
	}
}

func TestAStateTellsWhatKindOfLossItIs(t *testing.T) {
	t.Parallel()
	r, d := Record(NewFilledImage(8*sector, '.'))
	write(t, d, 0, sectors(2, 'a'))
	write(t, d, 3*sector, sectors(1, '.')) // nothing new
	write(t, d, 4*sector, sectors(1, 'b'))
	got := map[string]Loss{}
	for s := range r.States(Options{}) {
		b := s.Image(d).Bytes()
		got[string([]byte{b[0], b[sector], b[4*sector]})] = s.Loss()
	}
	want := map[string]Loss{
		"...": LostAll, "a..": Torn, ".a.": Torn, "aa.": LostWrites,
		"..b": LostWrites, "a.b": Torn, ".ab": Torn, "aab": LostNone,
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteThrough(sectors(1, 'c'), 0); err != nil {
		t.Fatal(err)
	}
	write(t, d, sector, sectors(1, 'd'))
	for s := range r.States(Options{Epochs: func(n int) bool { return n == 2 }}) {
		want := LostAll
		if s.Image(d).Bytes()[sector] == 'd' {
			want = LostNone
		}
		if s.Loss() != want {
			t.Errorf("%v: %v, want %v", s, s.Loss(), want)
		}
	}
}
