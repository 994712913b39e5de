// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

func sampleRecords() []Record {
	gap := Record{
		Binding: testBinding, Sequence: 41, Mode: Gap, Direction: Forward, Phase: Moving, DataSize: 40960,
		OldOffset: 12288, NewOffset: 4096, OldSector: 512, NewSector: 4096, Position: 8192, Zone: 8192, Zones: 1,
	}
	finished := gap
	finished.Phase, finished.Position = Finished, 40960
	journaled := Record{
		Binding: testBinding, Sequence: 2, Mode: Journal, Direction: Backward, Phase: Journaled, DataSize: 40960,
		OldOffset: 4096, NewOffset: 4096, OldSector: 4096, NewSector: 4096, JournalOffset: 65536,
		Position: 40960, Zone: 8192, Digest: sha256.Sum256([]byte("ciphertext")), JournalAt: 12288,
	}
	wrapped := journaled
	wrapped.RingSize = 16384
	return []Record{gap, finished, journaled, wrapped}
}

func marshaled(r Record) []byte {
	b := make([]byte, slotSize)
	r.marshal(b)
	return b
}

func TestRecordIsReadAsWritten(t *testing.T) {
	t.Parallel()
	for _, want := range sampleRecords() {
		slot := marshaled(want)
		for c := range recordCopies {
			got, err := parseRecord(slot[c*recordSize:][:recordSize])
			if err != nil || got != want {
				t.Errorf("copy %d: %+v, %v", c, got, err)
			}
		}
	}
}

// A record with any single byte damaged, or one torn into another at any place, is not
// accepted.
func TestDamagedRecordIsRefused(t *testing.T) {
	t.Parallel()
	for _, r := range sampleRecords() {
		good := marshaled(r)[:recordSize]
		other := r
		other.Sequence += 2
		other.Zones++
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 0x10
			if got, err := parseRecord(b); err == nil {
				t.Fatalf("byte %d damaged, accepted: %+v", i, got)
			}
			torn := bytes.Clone(good)
			copy(torn, marshaled(other)[:i])
			if bytes.Equal(torn, good) || bytes.Equal(torn, marshaled(other)[:recordSize]) {
				continue
			}
			if got, err := parseRecord(torn); err == nil {
				t.Fatalf("torn at byte %d, accepted: %+v", i, got)
			}
		}
	}
}

// A correct checksum does not make nonsense valid.
func TestNonsenseWithAChecksumIsRefused(t *testing.T) {
	t.Parallel()
	gap, journaled := sampleRecords()[0], sampleRecords()[2]
	for _, c := range []struct {
		name   string
		from   Record
		change func(*Record)
	}{
		{"sequence 0", gap, func(r *Record) { r.Sequence = 0 }},
		{"unknown mode", gap, func(r *Record) { r.Mode = 9 }},
		{"unknown direction", gap, func(r *Record) { r.Direction = 0 }},
		{"unknown phase", gap, func(r *Record) { r.Phase = 4 }},
		{"position behind the end", gap, func(r *Record) { r.Position = 45056 }},
		{"position inside a sector", gap, func(r *Record) { r.Position = 512 }},
		{"finished in the middle", gap, func(r *Record) { r.Phase = Finished }},
		{"moving at the end", gap, func(r *Record) { r.Position = 40960 }},
		{"journaled without a journal", gap, func(r *Record) { r.Phase = Journaled }},
		{"digest without a journal", gap, func(r *Record) { r.Digest[0] = 1 }},
		{"place without a journal", gap, func(r *Record) { r.JournalAt = 4096 }},
		{"place inside a sector", journaled, func(r *Record) { r.JournalAt = 512 }},
		{"negative place", journaled, func(r *Record) { r.JournalAt = -4096 }},
		{"place behind every journal", journaled, func(r *Record) { r.JournalAt = 1<<63 - 4096 }},
		{"wrapped inside a sector", journaled, func(r *Record) { r.RingSize = 16384 + 512 }},
		{"wrapped before it begins", journaled, func(r *Record) { r.RingSize = r.JournalAt }},
		{"wrapped over itself", journaled, func(r *Record) { r.JournalAt, r.RingSize = 0, 4096 }},
		{"negative wrap", journaled, func(r *Record) { r.RingSize = -4096 }},
		{"wrapped behind every journal", journaled, func(r *Record) { r.RingSize = 1<<63 - 4096 }},
		{"wrapped without a journal", gap, func(r *Record) { r.RingSize = 4096 }},
		{"negative size", gap, func(r *Record) { r.DataSize = -4096 }},
		{"sector 0", gap, func(r *Record) { r.OldSector = 0 }},
		{"no gap", gap, func(r *Record) { r.NewOffset = r.OldOffset }},
		{"journaled zone below 0", journaled, func(r *Record) { r.Position = 4096 }},
		{"journaled zone of nothing", journaled, func(r *Record) { r.Zone = 0 }},
		{"journaled zone above the end", journaled, func(r *Record) { r.Direction = Forward }},
	} {
		r := c.from
		c.change(&r)
		if got, err := parseRecord(marshaled(r)[:recordSize]); err == nil {
			t.Errorf("%s accepted: %+v", c.name, got)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, r := range sampleRecords() {
		f.Add(marshaled(r)[:recordSize], true)
	}
	f.Add(make([]byte, recordSize), false)
	f.Add(bytes.Repeat([]byte{0xff}, recordSize), true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) == recordSize {
			// Make it pass the checksum.
			b = bytes.Clone(b)
			sum := sha256.Sum256(b[:recordBody])
			copy(b[recordBody:], sum[:])
		}
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		if !bytes.Equal(marshaled(r)[:recordSize], b) {
			t.Fatalf("%+v is written differently from how it was read", r)
		}
		next := int64(0)
		for _, p := range r.Pieces() {
			if p.Start != next || p.Length <= 0 {
				t.Fatalf("%+v: pieces %+v", r, r.Pieces())
			}
			next += p.Length
		}
		if next != r.DataSize || r.Done() < 0 || r.Done() > r.DataSize {
			t.Fatalf("%+v: pieces end at %d, %d done", r, next, r.Done())
		}
	})
}

// slotsOf is a header area whose two slots hold these bytes.
func slotsOf(first, second []byte) *bytes.Reader {
	b := make([]byte, RecordArea)
	copy(b, first)
	copy(b[slotSize:], second)
	return bytes.NewReader(b)
}

func TestNewestRecordOfTheRotationCounts(t *testing.T) {
	t.Parallel()
	even := sampleRecords()[0]
	even.Sequence = 42
	odd := sampleRecords()[0]
	odd.Sequence = 43
	foreign := odd
	foreign.Generation++
	oneSector := make([]byte, slotSize)
	copy(oneSector[5*recordSize:], marshaled(odd)[:recordSize])

	for _, c := range []struct {
		name          string
		first, second []byte
		want          uint64 // 0: none
	}{
		{"both", marshaled(even), marshaled(odd), 43},
		{"second damaged", marshaled(even), bytes.Repeat([]byte{7}, slotSize), 42},
		{"second never written", marshaled(even), nil, 42},
		{"first never written, erased to ones", bytes.Repeat([]byte{0xff}, slotSize), marshaled(odd), 43},
		{"one sector left of the second", marshaled(even), oneSector, 43},
		{"newer one of another rotation", marshaled(even), marshaled(foreign), 42},
		{"in the wrong slots", marshaled(odd), marshaled(even), 0},
		{"another rotation's only", nil, marshaled(foreign), 0},
		{"nothing", nil, nil, 0},
	} {
		got, err := ReadRecord(slotsOf(c.first, c.second), 0, testBinding)
		if got.Sequence != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%s: sequence %d, %v", c.name, got.Sequence, err)
		}
		if err != nil && (!errors.Is(err, ErrNoRecord) || fault.CodeOf(err) != fault.RotationDamaged) {
			t.Errorf("%s: %v has the code %s", c.name, err, fault.CodeOf(err))
		}
	}
}

type failingReader struct{}

func (failingReader) ReadAt([]byte, int64) (int, error) { return 0, unix.EIO }

// A slot that cannot be read is not the same as one never written: its record may be
// newer than the other slot's.
func TestUnreadableSlotIsAnError(t *testing.T) {
	t.Parallel()
	_, err := ReadRecord(failingReader{}, 0, testBinding)
	var e *IOError
	if !errors.As(err, &e) || errors.Is(err, ErrNoRecord) || !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	if _, err := ReadRecord(bytes.NewReader(make([]byte, RecordArea-1)), 0, testBinding); !errors.As(err, &e) {
		t.Errorf("short header area: %v", err)
	}
}

// A newer program's record is not skipped in favour of the older record beside it, whose
// zone may be overwritten by now.
func TestANewerRecordIsNoAbsentOne(t *testing.T) {
	t.Parallel()
	old := sampleRecords()[0]
	newer := old
	newer.Sequence++
	for name, at := range map[string]int{"version": 11, "reserved byte": 15, "further field": recordUsed} {
		slots := append(marshaled(newer), marshaled(old)...)
		for i := range recordCopies {
			b := slots[i*recordSize:][:recordSize]
			b[at]++
			sum := sha256.Sum256(b[:recordBody])
			copy(b[recordBody:], sum[:])
		}
		if r, err := ReadRecord(bytes.NewReader(slots), 0, testBinding); fault.CodeOf(err) != fault.HeaderRequirement {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if _, err := Records(bytes.NewReader(slots), 0, testBinding.UUID); fault.CodeOf(err) != fault.HeaderRequirement {
			t.Errorf("%s: %v", name, err)
		}
		// That rotation is over: the header has its key.
		if n, err := Reached(bytes.NewReader(slots), 0, testBinding.UUID); n != testBinding.Generation || err != nil {
			t.Errorf("%s: reached %d, %v", name, n, err)
		}
		if n, err := Reached(bytes.NewReader(slots), 0, [16]byte{9}); n != 0 || err != nil {
			t.Errorf("%s, of another volume: reached %d, %v", name, n, err)
		}
	}
}

func TestBeginDoesNotForgetARotation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r, want := started(t, setup{mode: Gap, direction: Forward, oldSector: 512, newSector: 512, zone: 1536, data: 5120})
	begin := func(b Binding) error {
		o := r.options()
		o.Binding = b
		return r.engine(t, o).Begin(ctx)
	}
	next := testBinding
	next.Generation++
	if err := begin(next); err != nil {
		t.Errorf("a rotation that moved nothing stands in the way: %v", err)
	}
	if err := begin(testBinding); err != nil {
		t.Errorf("again, nothing moved: %v", err)
	}
	e := r.engine(t, r.options())
	if _, err := e.Step(ctx); err != nil {
		t.Fatal(err)
	}
	for _, b := range []Binding{testBinding, next} {
		var s *StartedError
		if err := begin(b); !errors.As(err, &s) || s.Record != e.Record() {
			t.Errorf("generation %d begun over one under way: %v", b.Generation, err)
		}
	}
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
	var s *StartedError
	if err := begin(testBinding); !errors.As(err, &s) {
		t.Errorf("a finished rotation begun again: %v", err)
	}
	got, err := r.read(e.Record().Pieces())
	if err == nil {
		err = same(want)(got)
	}
	if err != nil {
		t.Error(err)
	}
	if err := begin(next); err != nil {
		t.Errorf("the next rotation after a finished one: %v", err)
	}
}

func TestRecordOfAnotherGeometryIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		field  string
		mode   Mode
		change func(*Layout)
	}{
		{"data size", Gap, func(l *Layout) { l.DataSize -= 512 }},
		{"old offset", Gap, func(l *Layout) { l.OldOffset += 512; l.End += 512 }},
		{"new sector size", Journal, func(l *Layout) { l.NewSector, l.ZoneSize = 1024, 1024 }},
		{"mode", Gap, func(l *Layout) {
			l.Mode, l.NewOffset, l.JournalSize, l.JournalOffset = Journal, l.OldOffset, 1536, 65536
		}},
		{"journal offset", Journal, func(l *Layout) { l.JournalOffset += 512 }},
		// The image went to a device with larger blocks.
		{"position within a block", Journal, func(l *Layout) { l.LogicalBlock, l.ZoneSize = 1024, 1024 }},
	} {
		r, _ := started(t, setup{mode: c.mode, direction: Forward, oldSector: 512, newSector: 512, zone: 1536, data: 5120})
		if _, err := r.engine(t, r.options()).Step(context.Background()); err != nil {
			t.Fatal(err)
		}
		o := r.options()
		c.change(&o.Layout)
		e := r.engine(t, o)
		_, err := e.Recover(context.Background())
		var m *MismatchError
		if !errors.As(err, &m) || m.Field != c.field || fault.CodeOf(err) != fault.HeaderMismatch {
			t.Errorf("%s: %v", c.field, err)
		}
		if _, err := e.Step(context.Background()); err == nil {
			t.Errorf("%s: a zone is moved all the same", c.field)
		}
	}
}

func TestErrorsNameTheirObject(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ err, want string }{
		{(&IOError{Op: "read", View: Old, Offset: 1052672, Err: unix.EIO}).Error(),
			"read at byte 1052672 (sector 2056) of the old mapping: input/output error"},
		{(&IOError{Op: "flush", View: Meta, Err: unix.EIO}).Error(), "flush of the header area: input/output error"},
		{(&JournalError{Zone: Zone{512, 1024}}).Error(), "the journal of the zone 512-1536 does not match its digest"},
		{fmt.Sprint((&StartedError{Record: sampleRecords()[0]}).Error()), "a rotation to generation 7 is under way at byte 8192 of 40960"},
	} {
		if c.err != c.want {
			t.Errorf("got  %s\nwant %s", c.err, c.want)
		}
	}
}

// Power is cut while the first records of a rotation are written, whichever of their
// sectors are there, and once more while that is repeated. The next run still begins,
// since the slots never show the previous rotation without its end.
func TestBeginAfterEveryPowerCut(t *testing.T) {
	t.Parallel()
	before := sampleRecords()[1]
	before.Binding.Generation--
	unfinished := before
	unfinished.Phase, unfinished.Position, unfinished.Sequence = Moving, 8192, before.Sequence-1
	area := make([]byte, RecordArea)
	for _, r := range []Record{unfinished, before} {
		copy(area[r.Sequence%2*slotSize:], marshaled(r))
	}
	s := setup{mode: Gap, direction: Forward, oldSector: 512, newSector: 512, zone: 4096, data: 8192}
	o := emptyRig(t, s).options()
	// begin returns the area after a Begin in which the first or the second write was
	// torn.
	begin := func(area []byte, write int, sectors uint) []byte {
		disk := &tornMeta{b: bytes.Clone(area), tear: write, sectors: sectors}
		o.Layout.RecordOffset, o.Views.Meta = 0, disk
		e, err := NewEngine(o)
		if err == nil {
			err = e.Begin(context.Background())
		}
		if err != nil {
			t.Fatalf("write %d, sectors %08b: %v", write, sectors, err)
		}
		return disk.b
	}
	states := 0
	for write := range 2 {
		for sectors := range uint(1 << recordCopies) {
			once := begin(area, write, sectors)
			for again := range 2 {
				for _, torn := range []uint{0, 1, 0x80, 0x0f, 0xf0, 0x55, 0xfe, 0x7f, 0xff} {
					states++
					begin(begin(once, again, torn), 2, 0)
				}
			}
		}
	}
	t.Logf("%d states of two cuts tried", states)
}

// tornMeta is a header area in which write tear is torn: only some of its sectors are
// there, and nothing that follows.
type tornMeta struct {
	b       []byte
	tear    int
	sectors uint
	writes  int
}

func (m *tornMeta) Flush() error                            { return nil }
func (m *tornMeta) ReadAt(p []byte, off int64) (int, error) { return copy(p, m.b[off:]), nil }
func (m *tornMeta) WriteAt(p []byte, off int64) (int, error) {
	m.writes++
	for i := 0; i < len(p)/SectorSize; i++ {
		if m.writes <= m.tear || m.writes == m.tear+1 && m.sectors>>i&1 != 0 || m.tear == 2 {
			copy(m.b[off+int64(i)*SectorSize:], p[i*SectorSize:][:SectorSize])
		}
	}
	return len(p), nil
}
