// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/test/vm"
)

// writer makes logs.
type writer struct {
	size  int
	count uint64
	body  []byte
}

func (w *writer) entry(sector, sectors, flags uint64, mark string, data []byte) {
	b := make([]byte, w.size)
	binary.LittleEndian.PutUint64(b, sector)
	binary.LittleEndian.PutUint64(b[8:], sectors)
	binary.LittleEndian.PutUint64(b[16:], flags)
	binary.LittleEndian.PutUint64(b[24:], uint64(len(mark)))
	copy(b[entrySize:], mark)
	w.body = append(append(w.body, b...), data...)
	w.count++
}

func (w *writer) bytes() []byte {
	head := make([]byte, w.size)
	binary.LittleEndian.PutUint64(head, logMagic)
	binary.LittleEndian.PutUint64(head[8:], logVersion)
	binary.LittleEndian.PutUint64(head[16:], w.count)
	binary.LittleEndian.PutUint32(head[24:], uint32(w.size))
	return append(head, w.body...)
}

func filled(size int, v byte) []byte { return bytes.Repeat([]byte{v}, size) }

// sample is a log with one entry of each kind, on a disk of eight sectors.
func sample(size int) []byte {
	w := &writer{size: size}
	w.entry(0, 2, 0, "", filled(2*size, 'a'))
	w.entry(0, 0, flagFlush, "", nil)
	w.entry(0, 0, flagMark, "half way", nil)
	w.entry(4, 1, flagFUA|flagMetadata, "", filled(size, 'b'))
	w.entry(1, 1, flagDiscard, "", nil)
	w.entry(7, 1, flagFlush|flagFUA, "", filled(size, 'c'))
	return w.bytes()
}

func TestALogIsRead(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{512, 4096} {
		l, err := Parse(sample(int(size)))
		if err != nil {
			t.Fatal(err)
		}
		want := []Entry{
			{Length: 2 * size, Data: filled(int(2*size), 'a')},
			{Flush: true},
			{Mark: "half way"},
			{Off: 4 * size, Length: size, FUA: true, Data: filled(int(size), 'b')},
			{Off: size, Length: size, Discard: true},
			{Off: 7 * size, Length: size, Flush: true, FUA: true, Data: filled(int(size), 'c')},
		}
		if l.SectorSize != size || !slices.EqualFunc(l.Entries, want, func(a, b Entry) bool {
			return bytes.Equal(a.Data, b.Data) && a.String() == b.String()
		}) {
			t.Errorf("sectors of %d: %v, want %v", size, l.Entries, want)
		}
	}
}

func TestWhatIsNoLogIsRefused(t *testing.T) {
	t.Parallel()
	change := func(off int, v byte) []byte {
		b := sample(512)
		b[off] = v
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":                 nil,
		"half a head":             sample(512)[:20],
		"head only":               sample(512)[:512],
		"magic":                   change(0, 0),
		"version":                 change(8, 2),
		"sectors of 1":            change(25, 0),
		"one entry too many":      change(16, 7),
		"cut in the data":         sample(512)[:512+512+1000],
		"unknown flag":            change(512+17, 1),
		"more data than bytes":    change(512+8+3, 1),
		"far behind any disk":     change(512+7, 1),
		"mark longer than sector": change(512+512+1024+512+25, 2),
	} {
		if _, err := Parse(b); !errors.Is(err, ErrLog) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnUnfinishedEntryIsNotLookedAt(t *testing.T) {
	t.Parallel()
	b := append(sample(512), filled(700, 0xee)...)
	if l, err := Parse(b); err != nil || len(l.Entries) != 6 {
		t.Errorf("%v, %v", l, err)
	}
}

// run replays a log over eight sectors of 512 bytes filled with dots.
func run(t *testing.T, log []byte) *Run {
	t.Helper()
	l, err := Parse(log)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRun(crashtest.NewFilledImage(8*512, '.'), l)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// picture returns the first byte of each sector.
func picture(im *crashtest.Image) string {
	var s []byte
	for i, b := range im.Bytes() {
		if i%512 == 0 {
			s = append(s, b)
		}
	}
	return string(s)
}

func TestStatesFollowFlushAndFUA(t *testing.T) {
	t.Parallel()
	r := run(t, sample(512))
	if got := picture(r.Final()); got != "a...b..c" {
		t.Errorf("at the end %q", got)
	}
	var got []string
	for _, s := range r.Sample(Options{}) {
		got = append(got, picture(r.Image(s)))
	}
	want := []string{
		"........", "a.......", ".a......", "aa......", // before the first flush
		"aa......", "aa..b...", // while b is written through
		"aa..b...", "a...b...", // before the second flush: the discard is not durable
		"a...b...", "a...b..c", // while c is written through
		"a...b..c", // all is durable
	}
	if !slices.Equal(got, want) {
		t.Errorf("states %q, want %q", got, want)
	}
}

func TestWhatWasFlushedAtAPlaceIsDurableFromThereOn(t *testing.T) {
	t.Parallel()
	r := run(t, sample(512))
	for _, s := range r.Sample(Options{}) {
		if got := picture(r.Image(s)); r.Durable(s, 2) && got[:1] != "a" || r.Durable(s, 4) && got[4] != 'b' {
			t.Errorf("%v: %q", s, got)
		}
	}
	for _, s := range r.Sample(Options{From: 2}) {
		if !r.Durable(s, 2) {
			t.Errorf("%v is from before the place", s)
		}
	}
	for _, s := range r.Sample(Options{To: 2}) {
		if r.Durable(s, 4) {
			t.Errorf("%v is from behind the place", s)
		}
	}
}

func TestTheSampleIsOfItsSeedAndCoversEveryCut(t *testing.T) {
	t.Parallel()
	w := &writer{size: 512}
	for i := range uint64(6) {
		for k := range uint64(8) {
			w.entry(k, 1, 0, "", filled(512, byte('A'+i)))
		}
		w.entry(0, 0, flagFlush, "", nil)
	}
	r := run(t, w.bytes())
	names := func(o Options) (out []string, cuts map[int]int) {
		cuts = map[int]int{}
		for _, s := range r.Sample(o) {
			out = append(out, s.String())
			cuts[s.Epoch]++
		}
		return out, cuts
	}
	a, cuts := names(Options{PerCut: 3, Seed: 5})
	if b, _ := names(Options{PerCut: 3, Seed: 5}); !slices.Equal(a, b) {
		t.Error("the same seed gave another choice")
	}
	if b, _ := names(Options{PerCut: 3, Seed: 6}); slices.Equal(a, b) {
		t.Error("another seed gave the same choice")
	}
	for n := range 6 {
		if cuts[n] != 3 {
			t.Errorf("%d states of cut %d", cuts[n], n)
		}
	}
	if n := r.Count(Options{PerCut: 1}); n != 6*256+1 {
		t.Errorf("%d states in all", n)
	}
}

func TestCutsAreSpreadOverTheFlushes(t *testing.T) {
	t.Parallel()
	w := &writer{size: 512}
	const flushes = 40
	for i := range uint64(flushes) {
		w.entry(0, 1, 0, "", filled(512, byte('A'+i)))
		w.entry(0, 0, flagFlush, "", nil)
	}
	r := run(t, w.bytes())
	for cuts, want := range map[int]int{0: flushes + 1, 1: 1, 10: 10, flushes: flushes, 100: flushes + 1} {
		tried, widest, before := 0, 0, -1
		for _, s := range r.Sample(Options{Cuts: cuts, PerCut: 1, Seed: 1}) {
			widest, before = max(widest, s.Epoch-before), s.Epoch
			tried++
		}
		if tried != want || before != flushes || widest > (flushes+want)/want {
			t.Errorf("%d cuts: %d tried, the last at flush %d, up to %d flushes between them", cuts, tried, before, widest)
		}
	}
	if n := r.Count(Options{Cuts: 1}); n != r.Count(Options{}) {
		t.Errorf("%d states with one cut", n)
	}
}

func TestEachFlushLosesEverythingWholeWritesAndPartsOfOne(t *testing.T) {
	t.Parallel()
	w := &writer{size: 512}
	const flushes = 40
	for i := range uint64(flushes) {
		for k := range uint64(4) {
			w.entry(2*k, 2, 0, "", filled(2*512, byte('A'+i)))
		}
		w.entry(0, 0, flagFlush, "", nil)
	}
	r := run(t, w.bytes())
	if n := r.Flushes(0, 0); n != flushes {
		t.Errorf("%d flushes", n)
	}
	if n := r.Flushes(5, 10); n != 1 {
		t.Errorf("%d flushes between the first and the second", n)
	}
	all := map[crashtest.Loss]int{}
	for _, s := range r.Sample(Options{PerCut: 1, Seed: 1}) {
		all[s.Loss()]++
	}
	if len(all) != 3 || all[crashtest.LostNone] != 0 {
		t.Errorf("with one of each: %v", all)
	}
	kinds := map[int][]crashtest.Loss{}
	for _, s := range r.Sample(Options{PerCut: 3, Seed: 1}) {
		kinds[s.Epoch] = append(kinds[s.Epoch], s.Loss())
	}
	for n := range flushes {
		slices.Sort(kinds[n])
		if want := []crashtest.Loss{crashtest.LostAll, crashtest.LostWrites, crashtest.Torn}; !slices.Equal(kinds[n], want) {
			t.Errorf("at flush %d: %v", n, kinds[n])
		}
	}
	if want := []crashtest.Loss{crashtest.LostAll}; !slices.Equal(kinds[flushes], want) {
		t.Errorf("at the end: %v", kinds[flushes])
	}
}

func TestAChoiceEndsWithWhatIsDurableAtItsEnd(t *testing.T) {
	t.Parallel()
	r := run(t, sample(512))
	states := r.Sample(Options{To: 2})
	last := states[len(states)-1]
	if !r.Durable(last, 2) || picture(r.Image(last)) != "aa......" {
		t.Errorf("%v: %q", last, picture(r.Image(last)))
	}
	for _, s := range states[:len(states)-1] {
		if r.Durable(s, 2) {
			t.Errorf("%v is from behind the place", s)
		}
	}
}

func TestOfEqualDisksTheLastIsKept(t *testing.T) {
	t.Parallel()
	w := &writer{size: 512}
	for _, v := range []byte("aba") {
		w.entry(0, 1, 0, "", filled(512, v))
		w.entry(0, 0, flagFlush, "", nil)
	}
	r := run(t, w.bytes())
	states := r.Sample(Options{})
	distinct := r.Distinct(states)
	var got []string
	for _, s := range distinct {
		got = append(got, picture(r.Image(s))[:1])
	}
	if want := []string{".", "b", "a"}; len(states) != 7 || !slices.Equal(got, want) {
		t.Errorf("%q of %d states, want %q", got, len(states), want)
	}
	if last := distinct[2]; last.Epoch != 3 {
		t.Errorf("%v was kept", last)
	}
}

func TestAWriteBehindTheEndIsAnError(t *testing.T) {
	t.Parallel()
	for _, flags := range []uint64{0, flagFUA, flagDiscard} {
		w := &writer{size: 512}
		data := filled(512, 'x')
		if flags == flagDiscard {
			data = nil
		}
		w.entry(8, 1, flags, "", data)
		l, err := Parse(w.bytes())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewRun(crashtest.NewImage(8*512), l); err == nil {
			t.Errorf("flags %d: no error", flags)
		}
	}
}

func TestAnImageIsLaidOntoADisk(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "disk")
	before := filled(3*pieceSize+512, 'o')
	if err := os.WriteFile(file, before, 0o600); err != nil {
		t.Fatal(err)
	}
	im, err := readImage(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(im.Bytes(), before) {
		t.Fatal("read back otherwise")
	}
	changed := im.Overlay()
	if _, err := changed.WriteAt([]byte("new"), 3*pieceSize+100); err != nil {
		t.Fatal(err)
	}
	if err := WriteImage(file, changed); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, changed.Bytes()) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := WriteImage(file, crashtest.NewImage(512)); err == nil {
		t.Error("an image of another size was written")
	}
}

// fatal is a TB that records a failure.
type fatal struct {
	testing.TB
	failed bool
}

func (f *fatal) Fatalf(string, ...any) { f.failed = true; panic(f) }

func TestATapeBeginsEmpty(t *testing.T) {
	t.Parallel()
	disk := vm.NewDisk(t, 8*512)
	func() {
		f := &fatal{TB: t}
		defer func() {
			if recover() != f || !f.failed {
				t.Error("a disk that is not recorded was taken")
			}
		}()
		Load(f, disk)
	}()
	disk.LogWrites = disk.Path + ".log"
	if err := os.WriteFile(disk.LogWrites, []byte("of an earlier boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	tape := Load(t, disk)
	if now := tape.Now(t); now != 0 {
		t.Errorf("at place %d", now)
	}
	if err := os.WriteFile(disk.LogWrites, sample(512), 0o600); err != nil {
		t.Fatal(err)
	}
	if now := tape.Now(t); now != 6 {
		t.Errorf("at place %d", now)
	}
	if got := tape.Changes(t, 1, 5); len(got) != 2 || got[0].Off != 4*512 || !got[1].Discard {
		t.Errorf("changed: %v", got)
	}
	if got := tape.Changes(t, 1, 3); got != nil {
		t.Errorf("changed by a flush and a mark: %v", got)
	}
	r := tape.Run(t)
	states := r.Sample(Options{})
	bench := vm.NewDisk(t, 8*512)
	r.Lay(t, bench, states[len(states)-1])
	if got, err := os.ReadFile(bench.Path); err != nil || !bytes.Equal(got, r.Final().Bytes()) {
		t.Errorf("the disk is not the last state's: %v", err)
	}
}

// No input is parsed as a log longer than itself, and every accepted log can be
// replayed.
func FuzzParse(f *testing.F) {
	f.Add(sample(512))
	f.Add(sample(4096))
	f.Add((&writer{size: 512}).bytes())
	w := &writer{size: 1024}
	w.entry(1<<39, 0, flagFlush, "", nil)
	w.entry(0, 1<<20, flagDiscard, "", nil)
	f.Add(w.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrLog) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		total := l.SectorSize
		for _, e := range l.Entries {
			total += l.SectorSize + int64(len(e.Data))
			if e.Off < 0 || e.Length < 0 || e.Off+e.Length < 0 || !e.Discard && e.Length != int64(len(e.Data)) {
				t.Fatalf("%v with %d bytes", e, len(e.Data))
			}
		}
		if total > int64(len(b)) {
			t.Fatalf("%d bytes from %d", total, len(b))
		}
		r, err := NewRun(crashtest.NewImage(64<<10), l)
		if err != nil {
			return // beyond the end of this disk
		}
		for range r.Sample(Options{PerCut: 1, Crash: crashtest.Options{Exhaustive: 2, Limit: 2, Random: -1}}) {
		}
	})
}
