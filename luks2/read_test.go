// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

func TestOneReadServesAHeaderOfTheDefaultSize(t *testing.T) {
	t.Parallel()
	m := formatted(t, newHeader(t))
	m.reads = 0
	if _, _, err := Read(m, m.Size()); err != nil {
		t.Fatal(err)
	}
	if m.reads != 1 {
		t.Errorf("%d reads", m.reads)
	}
}

func TestLargerHeadersAreReadToo(t *testing.T) {
	t.Parallel()
	for _, size := range headerSizes {
		t.Run(fmt.Sprint(size>>10, " KiB"), func(t *testing.T) {
			t.Parallel()
			h := newHeader(t, func(o *Options) { o.CopySize, o.HeaderArea = size, 2*size+64<<10 })
			moveTo(9 << 20)(h)
			m := newMemory(32 << 20)
			if err := h.Format(m); err != nil {
				t.Fatal(err)
			}
			for name, spoil := range map[string]int64{"intact": -1, "first damaged": 0x1001, "first without magic": 0, "second damaged": size + 0x1001} {
				if spoil >= 0 {
					m.data[spoil] ^= 0x10
				}
				got, copies, err := Read(m, m.Size())
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if got.CopySize() != size || copies.Intact() != (spoil < 0) {
					t.Errorf("%s: %+v", name, copies)
				}
				if spoil >= 0 {
					m.data[spoil] ^= 0x10
				}
			}
		})
	}
}

// TestEachDamagedByteIsSurvived changes every single meaningful byte of one copy: the
// other copy serves, and a repair restores the damaged one.
func TestEachDamagedByteIsSurvived(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	pristine := formatted(t, h)
	var offsets []int
	for _, base := range []int{0, DefaultCopySize} {
		for off := range 0x1e0 {
			offsets = append(offsets, base+off)
		}
		for off := binarySize; off < DefaultCopySize; off += 97 {
			offsets = append(offsets, base+off)
		}
	}
	m := newSparse(testSize)
	for _, off := range offsets {
		copy(m.data, pristine.data[:2*DefaultCopySize])
		m.data[off] ^= 0x81
		got, copies, err := Read(m, m.Size())
		if err != nil {
			t.Fatalf("byte %#x: %v", off, err)
		}
		if copies.Intact() || got.SeqID != h.SeqID {
			t.Fatalf("byte %#x: not noticed: %+v", off, copies)
		}
		if repaired, err := Repair(m); err != nil || !repaired {
			t.Fatalf("byte %#x: repair: %v, %v", off, repaired, err)
		}
		if _, copies, err = Read(m, m.Size()); err != nil || !copies.Intact() {
			t.Fatalf("byte %#x: after the repair: %v, %+v", off, err, copies)
		}
	}
	t.Logf("%d bytes damaged, each survived and repaired", len(offsets))
}

func TestBothCopiesDamaged(t *testing.T) {
	t.Parallel()
	m := formatted(t, newHeader(t))
	m.data[0x1001] ^= 1
	m.data[0x5001] ^= 1
	_, copies, err := Read(m, m.Size())
	var damaged *DamagedError
	if !errors.As(err, &damaged) || fault.CodeOf(err) != fault.HeaderDamaged {
		t.Fatalf("got %v", err)
	}
	wantRule(t, damaged.Primary, RuleChecksum)
	wantRule(t, damaged.Secondary, RuleChecksum)
	if copies.Primary.State != CopyDamaged || copies.Secondary.State != CopyDamaged {
		t.Errorf("copies %+v", copies)
	}
	m.writes = 0
	var exists *ExistsError
	if err := newHeader(t).Format(m); !errors.As(err, &exists) {
		t.Errorf("format: %v", err)
	}
	if _, err := Repair(m); !errors.As(err, &damaged) {
		t.Errorf("repair: %v", err)
	}
	if m.writes != 0 {
		t.Error("it was written to")
	}
}

func TestNoHeader(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 511, 512, 4095, 4096, 16384, 20000, 32768, 1 << 20} {
		m := newMemory(size)
		if _, _, err := Read(m, m.Size()); !errors.Is(err, ErrNotLUKS) {
			t.Errorf("%d bytes of zeros: %v", size, err)
		}
	}
}

func TestTruncatedDevices(t *testing.T) {
	t.Parallel()
	full := formatted(t, newHeader(t))
	for _, size := range []int{512, 4095, 4096, 8192, 16383, 16384, 16896, 20480, 32767, 32768, 1<<20 - 1, 1 << 20, 4 << 20} {
		m := newMemory(size)
		copy(m.data, full.data)
		_, _, err := Read(m, m.Size())
		switch code := fault.CodeOf(err); {
		case size < DefaultCopySize && code != fault.HeaderDamaged,
			size >= DefaultCopySize && code != fault.HeaderInvalid:
			t.Errorf("%d bytes: %v (%s)", size, err, code)
		}
	}
}

func TestALaterFormatIsNotTakenForDamage(t *testing.T) {
	t.Parallel()
	// A LUKS1 header, or a future one, over the first copy, while the second one is still
	// there: it must not be "repaired" away.
	for _, version := range []uint16{0, 1, 3, 0xffff} {
		m := formatted(t, newHeader(t))
		binary.BigEndian.PutUint16(m.data[offVersion:], version)
		m.data[0x60] ^= 1 // not only the version differs
		_, _, err := Read(m, m.Size())
		var v *VersionError
		if !errors.As(err, &v) || v.Version != version || fault.CodeOf(err) != fault.HeaderVersion {
			t.Errorf("version %d: %v", version, err)
		}
		m.writes = 0
		if repaired, err := Repair(m); repaired || err == nil || m.writes != 0 {
			t.Errorf("version %d: repaired: %v", version, err)
		}
	}
}

func TestCopiesOfTwoVolumesAreRefused(t *testing.T) {
	t.Parallel()
	m := formatted(t, newHeader(t))
	other := formatted(t, newHeader(t, func(o *Options) { o.UUID = otherUUID }))
	copy(m.data[DefaultCopySize:], other.data[DefaultCopySize:2*DefaultCopySize])
	_, _, err := Read(m, m.Size())
	wantRule(t, err, RuleTwoVolumes)
}

func TestAnInvalidCopyWithAHigherNumberIsNotIgnored(t *testing.T) {
	t.Parallel()
	for seq, refused := range map[uint64]bool{0: false, 1: false, 2: true} {
		h := newHeader(t)
		m := formatted(t, h)
		b := h.binary(true)
		b.seqID = seq
		copy(m.data[DefaultCopySize:], encodeCopy(b, []byte(`{"keyslots":{}}`), true))
		_, copies, err := Read(m, m.Size())
		if refused != (err != nil) {
			t.Errorf("number %d: %v", seq, err)
		}
		if copies.Secondary.State != CopyInvalid || copies.Secondary.SeqID != seq {
			t.Errorf("copies %+v", copies)
		}
	}
}

// faulty fails reads that touch a range of bytes.
type faulty struct {
	*memory
	from, to int64
}

func (f *faulty) ReadAt(b []byte, off int64) (int, error) {
	if off < f.to && off+int64(len(b)) > f.from {
		return 0, fmt.Errorf("read sector: %w", unix.EIO)
	}
	return f.memory.ReadAt(b, off)
}

func TestUnreadableSectors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		from, to int64
		want     error
		primary  CopyState
		second   CopyState
	}{
		{"in the first copy's header", 0, 512, nil, CopyUnreadable, CopyGood},
		{"in the first copy's text", 0x2000, 0x2200, nil, CopyUnreadable, CopyGood},
		{"in the second copy", 0x4000, 0x4200, nil, CopyGood, CopyUnreadable},
		{"in both", 0x3e00, 0x4200, unix.EIO, CopyUnreadable, CopyUnreadable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := &faulty{memory: formatted(t, newHeader(t)), from: tc.from, to: tc.to}
			_, copies, err := Read(f, f.Size())
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v", err)
			}
			if err != nil && fault.CodeOf(err) != fault.IOFailed {
				t.Errorf("fault code %s", fault.CodeOf(err))
			}
			if copies.Primary.State != tc.primary || copies.Secondary.State != tc.second {
				t.Errorf("copies %+v", copies)
			}
		})
	}
}

// shortReader ends a read early without an error, which no ReaderAt may do.
type shortReader struct{ io.ReaderAt }

func (s shortReader) ReadAt(b []byte, off int64) (int, error) { return len(b) / 2, nil }

func TestAShortReadIsAnError(t *testing.T) {
	t.Parallel()
	if _, _, err := Read(shortReader{}, testSize); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func TestADetachedHeader(t *testing.T) {
	t.Parallel()
	h := newHeader(t, func(o *Options) { o.Detached, o.HeaderArea = true, 64<<10 })
	image, err := h.Image()
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{data: image, size: int64(len(image))}
	got, _, err := ReadDetached(m, m.Size(), 8<<20)
	if err != nil || !got.Detached() || got.Area() != int64(len(image)) {
		t.Fatalf("%v, %+v", err, got)
	}
	if _, _, err := ReadDetached(m, m.Size(), 8<<20-4096); err == nil {
		t.Error("a device that is too small was taken")
	}
	if got, _, err = ReadDetached(m, m.Size(), -1); err != nil {
		t.Fatal(err)
	}
	wantRule(t, got.CheckData(8<<20-4096), RuleSegmentBounds)
	if err := got.CheckData(8 << 20); err != nil {
		t.Error(err)
	}
	// The same header on the device itself would get itself overwritten.
	_, _, err = Read(m, m.Size())
	wantRule(t, err, RuleSegmentInHeader)
	got.Label = "renamed"
	if err := got.Write(m); err != nil {
		t.Fatal(err)
	}
	if again, _, err := ReadDetached(m, m.Size(), -1); err != nil || again.Label != "renamed" || again.SeqID != 2 {
		t.Errorf("%v, %+v", err, again)
	}
}

func TestCheckNamesWhatIsWrongWithoutBeingFatal(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	m := formatted(t, h)
	m.data[0x5001] ^= 1
	report, err := Check(m, m.Size(), m.Size())
	if err != nil || len(report.Problems) != 1 || !strings.Contains(report.Problems[0], "second copy is damaged") {
		t.Errorf("%v, %q", err, report.Problems)
	}
	m.data[0x5001] ^= 1
	putCopy(t, m, changed(t, h), 1, true)
	report, err = Check(m, m.Size(), m.Size())
	if err != nil || len(report.Problems) != 1 || !strings.Contains(report.Problems[0], "different content") {
		t.Errorf("%v, %q", err, report.Problems)
	}
	clear(m.data[:2*DefaultCopySize])
	if report, err = Check(m, m.Size(), m.Size()); !errors.Is(err, ErrNotLUKS) || report == nil || report.Header != nil {
		t.Errorf("%v, %+v", err, report)
	}
}

// TestMemoryIsBounded reads the worst possible bytes, in the largest headers.
func TestMemoryIsBounded(t *testing.T) {
	const size, limit = 4 << 20, 96 << 20
	area := size - binarySize - 1
	for name, text := range map[string]string{
		"many values":       `{"x":[` + strings.Repeat("[],", area/3-10) + `[]]}`,
		"many members":      manyMembers(area),
		"deep":              strings.Repeat(`{"a":`, area/5),
		"one long string":   `{"x":"` + strings.Repeat("a", area-10) + `"}`,
		"one long name":     `{"` + strings.Repeat(`\n`, area/2-10) + `":1}`,
		"one long number":   `{"x":` + strings.Repeat("1", area-10) + `}`,
		"nothing but space": `{` + strings.Repeat(" ", area-3) + `}`,
	} {
		m := newMemory(16 << 20)
		for _, secondary := range []bool{false, true} {
			// Different bytes, so that nothing is shared.
			b := binaryHeader{size: size, seqID: 1, uuid: testUUID}
			off := 0
			if secondary {
				off, text = size, text[:len(text)-1]
			}
			copy(m.data[off:], encodeCopy(b, []byte(text), secondary))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := Read(m, m.Size())
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: taken", name)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > limit {
			t.Errorf("%s: %d MiB allocated", name, n>>20)
		} else {
			t.Logf("%s: %d MiB allocated: %.80v", name, n>>20, err)
		}
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	b.WriteByte('{')
	for i := 0; b.Len() < n-30; i++ {
		fmt.Fprintf(&b, `"%d":0,`, i)
	}
	b.WriteString(`"x":0}`)
	return b.String()
}

func BenchmarkRead(b *testing.B) {
	m := formatted(b, newHeader(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Read(m, m.Size()); err != nil {
			b.Fatal(err)
		}
	}
}
