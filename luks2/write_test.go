// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

func TestFormatThenReadGivesTheSameHeader(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	m := formatted(t, h)
	got, copies, err := Read(m, m.Size())
	if err != nil {
		t.Fatal(err)
	}
	if !copies.Intact() {
		t.Errorf("copies after Format: %+v", copies)
	}
	h.data = got.data
	if !reflect.DeepEqual(got, h) {
		t.Errorf("read %+v\nwrote %+v", got, h)
	}
}

func TestNewChecksItsOptions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		o    Options
		rule Rule
	}{
		{"no UUID", Options{}, RuleUUID},
		{"UUID in braces", Options{UUID: "{" + testUUID + "}"}, RuleUUID},
		{"label of 48 bytes", Options{UUID: testUUID, Label: strings.Repeat("x", 48)}, RuleText},
		{"label with a zero byte", Options{UUID: testUUID, Label: "a\x00b"}, RuleText},
		{"subsystem of 48 bytes", Options{UUID: testUUID, Subsystem: strings.Repeat("x", 48)}, RuleText},
		{"copies of 24 KiB", Options{UUID: testUUID, CopySize: 24 << 10}, RuleHeaderSize},
		{"area smaller than the copies", Options{UUID: testUUID, HeaderArea: 16 << 10}, RuleConfigSize},
		{"area not in pages", Options{UUID: testUUID, HeaderArea: 1<<20 + 512}, RuleConfigSize},
		{"area over 128 MiB", Options{UUID: testUUID, HeaderArea: 256 << 20}, RuleConfigSize},
	} {
		_, err := New(tc.o)
		t.Run(tc.name, func(t *testing.T) { t.Parallel(); wantRule(t, err, tc.rule) })
	}
	h, err := New(Options{UUID: strings.ToUpper(testUUID), Label: strings.Repeat("x", 47)})
	if err != nil || h.UUID != testUUID {
		t.Errorf("%v, %+v", err, h)
	}
}

func TestWhatWouldBeRefusedIsNotWritten(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		edit func(h *Header)
		rule Rule
	}{
		{"no segment", func(h *Header) { h.Metadata.Segments = nil; h.Metadata.Digests = nil }, RuleSegments},
		{"segment without digest", func(h *Header) { h.Metadata.Digests = nil }, RuleSegmentDigest},
		{"segment in the header", moveTo(4096), RuleSegmentInHeader},
		{"segment negative", moveTo(-4096), RuleNumber},
		{"segment behind the device", moveTo(testSize), RuleSegmentBounds},
		{"token named by a letter", func(h *Header) { h.Metadata.Tokens["a"] = Token{} }, RuleIdentifier},
		{"extra member with a known name", func(h *Header) { h.Metadata.Tokens["0"].Extra["type"] = []byte(`"x"`) }, RuleJSONDuplicate},
		{"extra member that is no JSON", func(h *Header) { h.Metadata.Tokens["0"].Extra["x"] = []byte(`{`) }, RuleJSONSyntax},
		{"extra member with two values", func(h *Header) { h.Metadata.Tokens["0"].Extra["x"] = []byte(`1 2`) }, RuleJSONTrailing},
		{"extra member with a duplicate", func(h *Header) { h.Metadata.Tokens["0"].Extra["x"] = []byte(`{"a":1,"a":2}`) }, RuleJSONDuplicate},
		{"text that is no UTF-8", func(h *Header) { h.Metadata.Tokens["0"] = Token{Type: "\xff"} }, RuleJSONSyntax},
		{"more text than the area holds", func(h *Header) {
			h.Metadata.Tokens["0"].Extra["x"] = []byte(`"` + filler(12<<10) + `"`)
		}, RuleJSONSize},
		{"label too long", func(h *Header) { h.Label = filler(48) }, RuleText},
		{"UUID gone", func(h *Header) { h.UUID = "" }, RuleUUID},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHeader(t)
			m := formatted(t, h)
			tc.edit(h)
			m.writes = 0
			wantRule(t, h.Validate(m.Size()), tc.rule)
			wantRule(t, h.Write(m), tc.rule)
			wantRule(t, h.Restore(m), tc.rule)
			if m.writes != 0 || h.SeqID != 1 {
				t.Error("it was written")
			}
			wantRule(t, h.Format(newMemory(testSize)), tc.rule)
		})
	}
}

func TestTheTextFillsItsAreaToTheLastByte(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	h.Metadata.Tokens["0"].Extra["x"] = []byte(`""`)
	text, err := h.encode(h.place(testSize))
	if err != nil {
		t.Fatal(err)
	}
	room := DefaultCopySize - binarySize - 1 - len(text)
	h.Metadata.Tokens["0"].Extra["x"] = []byte(`"` + filler(room) + `"`)
	m := formatted(t, h)
	if _, copies, err := Read(m, m.Size()); err != nil || !copies.Intact() {
		t.Errorf("%v, %+v", err, copies)
	}
	h.Metadata.Tokens["0"].Extra["x"] = []byte(`"` + filler(room+1) + `"`)
	wantRule(t, h.Write(m), RuleJSONSize)
}

func TestTheSameContentGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	want, err := h.Image()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		got, err := h.Clone().Image()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("other bytes (%v)", err)
		}
	}
}

func TestACloneIsIndependent(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	want, err := h.Image()
	if err != nil {
		t.Fatal(err)
	}
	c := h.Clone()
	c.Metadata.Tokens["0"].Extra["phase"][1] = 'X'
	c.Metadata.Digests["0"].Segments[0] = "9"
	c.Metadata.Config.Mandatory[0] = "x"
	delete(c.Metadata.Segments, "0")
	c.Require("y")
	if got, err := h.Image(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the original changed (%v)", err)
	}
}

func TestSomebodyElseWroteInBetween(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	m := formatted(t, h)
	other, _, err := Read(m, m.Size())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Write(m); err != nil {
		t.Fatal(err)
	}
	m.writes = 0
	var conflict *ConflictError
	if err := h.Write(m); !errors.As(err, &conflict) || conflict.HaveSeqID != 2 || conflict.WantSeqID != 1 || m.writes != 0 {
		t.Errorf("got %v after %d writes", err, m.writes)
	}
	foreign := formatted(t, newHeader(t, func(o *Options) { o.UUID = otherUUID }))
	foreign.writes = 0
	if err := h.Write(foreign); !errors.As(err, &conflict) || conflict.HaveUUID != otherUUID || foreign.writes != 0 {
		t.Errorf("got %v", err)
	}
}

func TestTheSequenceNumberEnds(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	m := formatted(t, h)
	putCopy(t, m, h, math.MaxUint64, false)
	got, _, err := Read(m, m.Size())
	if err != nil {
		t.Fatal(err)
	}
	wantRule(t, got.Write(m), RuleSequence)
}

func TestFormatRefusesWhatIsThere(t *testing.T) {
	t.Parallel()
	m := formatted(t, newHeader(t))
	var exists *ExistsError
	if err := newHeader(t).Format(m); !errors.As(err, &exists) || exists.Err != nil {
		t.Errorf("over a header: %v", err)
	}
	clear(m.data[:DefaultCopySize])
	if err := newHeader(t).Format(m); !errors.As(err, &exists) {
		t.Errorf("over a second copy: %v", err)
	}
	luks1 := newMemory(testSize)
	copy(luks1.data, realHeader(t, "luks1"))
	if err := newHeader(t).Format(luks1); !errors.As(err, &exists) {
		t.Errorf("over LUKS1: %v", err)
	}
}

func TestUnfinishedDiffersFromOtherThings(t *testing.T) {
	t.Parallel()
	whole := formatted(t, newHeader(t))
	second := whole.data[DefaultCopySize : 2*DefaultCopySize]
	for _, tc := range []struct {
		name string
		edit func(m *memory)
		want bool
	}{
		{"nothing", func(*memory) {}, false},
		{"the whole second copy", func(m *memory) { copy(m.data[DefaultCopySize:], second) }, true},
		{"its header alone", func(m *memory) { copy(m.data[DefaultCopySize:], second[:512]) }, true},
		{"its text alone", func(m *memory) { copy(m.data[DefaultCopySize+binarySize:], second[binarySize:binarySize+512]) }, true},
		{"another text there", func(m *memory) { copy(m.data[DefaultCopySize+binarySize:], "hello") }, false},
		{"binary data there", func(m *memory) { fillBytes(m.data[DefaultCopySize+binarySize+512:][:512], 0x01) }, false},
		{"data behind the binary header", func(m *memory) { copy(m.data[DefaultCopySize:], second[:512]); m.data[DefaultCopySize+1024] = 'x' }, false},
		{"something in the first copy's place", func(m *memory) { copy(m.data[DefaultCopySize:], second); m.data[1024] = 1 }, false},
		{"a second copy of another size", func(m *memory) { copy(m.data[2*DefaultCopySize:], second[:512]) }, false},
		{"data far behind only", func(m *memory) { m.data[12<<20] = 1 }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMemory(testSize)
			tc.edit(m)
			area, got, err := Unfinished(m, m.Size())
			if err != nil || got != tc.want || (got && area != 2*DefaultCopySize) {
				t.Errorf("%d, %v, %v", area, got, err)
			}
		})
	}
	if _, got, err := Unfinished(newMemory(100), 100); got || err != nil {
		t.Errorf("a tiny device: %v, %v", got, err)
	}
}

// TestAFilesystemMadeOverTheContainerIsNotRepairedAway: the second copy survives behind a
// new filesystem, whose superblock is in the first copy's place.
func TestAFilesystemMadeOverTheContainerIsNotRepairedAway(t *testing.T) {
	t.Parallel()
	for _, mkfs := range [][]string{
		{"mkfs.ext4", "-F", "-q"},
		{"mkfs.ext4", "-F", "-q", "-b", "1024"},
		{"mkswap", "-f"},
	} {
		t.Run(strings.Join(mkfs, " "), func(t *testing.T) {
			t.Parallel()
			h := newHeader(t)
			fs := newMemory(64 << 20)
			path := imageFile(t, fs)
			mustRun(t, mkfs[0], append(mkfs[1:], path)...)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			copy(fs.data, data)
			container := formatted(t, h)
			copy(fs.data[DefaultCopySize:], container.data[DefaultCopySize:2*DefaultCopySize])
			for _, magic := range []bool{false, true} {
				if magic { // the worst case: the program leaves the first sector alone
					copy(fs.data[:512], container.data[:512])
				}
				got, copies, err := Read(fs, fs.Size())
				if err != nil || got.UUID != testUUID {
					t.Fatalf("read: %v, %+v", err, copies)
				}
				fs.writes = 0
				var foreign *ForeignError
				if _, err := Repair(fs); !errors.As(err, &foreign) {
					t.Errorf("repair: %v", err)
				}
				if err := got.Write(fs); !errors.As(err, &foreign) {
					t.Errorf("write: %v", err)
				}
				if fs.writes != 0 {
					t.Error("it was written to")
				}
			}
			// On request it is overwritten.
			if err := newHeader(t).Restore(fs); err != nil {
				t.Errorf("restore: %v", err)
			}
		})
	}
}

func TestRestoreOverAnything(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(m *memory){
		"the same header":  func(*memory) {},
		"nothing":          func(m *memory) { clear(m.data) },
		"random bytes":     func(m *memory) { fillBytes(m.data[:64<<10], 0x5a) },
		"a damaged header": func(m *memory) { m.data[0x1001] ^= 1; m.data[0x5001] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHeader(t)
			m := formatted(t, h)
			for range 3 { // the device is ahead of the backup
				now, _, err := Read(m, m.Size())
				if err != nil {
					t.Fatal(err)
				}
				if err := now.Write(m); err != nil {
					t.Fatal(err)
				}
			}
			spoil(m)
			if err := h.Restore(m); err != nil {
				t.Fatal(err)
			}
			got, copies, err := Read(m, m.Size())
			if err != nil || !copies.Intact() || got.SeqID != h.SeqID || got.SeqID < 2 {
				t.Errorf("%v, %+v", err, copies)
			}
		})
	}
	m := formatted(t, newHeader(t))
	large := newHeader(t, func(o *Options) { o.CopySize = 32 << 10 })
	wantRule(t, large.Restore(m), RuleHeaderSize)
}

// failing fails the n-th write or flush.
type failing struct {
	*memory
	left int
}

func (f *failing) op() error {
	if f.left--; f.left < 0 {
		return fmt.Errorf("write sector: %w", unix.ENOSPC)
	}
	return nil
}

func (f *failing) Flush() error { return f.op() }

func (f *failing) WriteAt(b []byte, off int64) (int, error) {
	if err := f.op(); err != nil {
		return 0, err
	}
	return f.memory.WriteAt(b, off)
}

func TestAFailedWriteLeavesTheOldOrTheNewHeader(t *testing.T) {
	t.Parallel()
	for n := range 8 {
		h := newHeader(t)
		m := formatted(t, h)
		m.data[0x5001] ^= 1
		next := changed(t, h)
		err := next.Write(&failing{m, n})
		if n < 7 {
			if !errors.Is(err, unix.ENOSPC) || fault.CodeOf(err) != fault.IOFailed {
				t.Fatalf("operation %d: %v", n, err)
			}
			if next.SeqID != h.SeqID {
				t.Errorf("operation %d: the number changed", n)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		got, copies, err := Read(m, m.Size())
		if err != nil || copies.Conflict {
			t.Fatalf("operation %d: %v, %+v", n, err, copies)
		}
		if want := map[uint64]string{1: "provisioning", 2: "ready"}[got.SeqID]; phase(t, got) != want {
			t.Errorf("operation %d: number %d, phase %s", n, got.SeqID, phase(t, got))
		}
	}
}

func TestRequirements(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	h.Require("imxcrypt-rotate-v1")
	h.Require("imxcrypt-rotate-v1")
	if !slices.Equal(h.Metadata.Config.Mandatory, []string{"imxcrypt-v1", "imxcrypt-rotate-v1"}) {
		t.Errorf("mandatory %q", h.Metadata.Config.Mandatory)
	}
	if err := h.CheckRequirements("imxcrypt-v1", "imxcrypt-rotate-v1"); err != nil {
		t.Error(err)
	}
	var unknown *RequirementError
	err := h.CheckRequirements("imxcrypt-v1")
	if !errors.As(err, &unknown) || !slices.Equal(unknown.Names, []string{"imxcrypt-rotate-v1"}) || fault.CodeOf(err) != fault.HeaderRequirement {
		t.Errorf("got %v", err)
	}
	h.Unrequire("imxcrypt-rotate-v1")
	if h.Requires("imxcrypt-rotate-v1") || !h.Requires("imxcrypt-v1") {
		t.Errorf("mandatory %q", h.Metadata.Config.Mandatory)
	}
}

func TestMembersAreExact(t *testing.T) {
	t.Parallel()
	m := Members{"blob": []byte(`"right"`), "BLOB": []byte(`"wrong"`), "n": []byte(`3`), "z": []byte(`1`)}
	v := struct {
		Blob   string `json:"blob"`
		Absent string `json:"absent"`
		N      int    `json:"n,omitempty"`
		Ignore int    `json:"-"`
		Plain  int
	}{Absent: "as it was"}
	if err := m.Decode(&v); err != nil || v.Blob != "right" || v.N != 3 || v.Absent != "as it was" {
		t.Errorf("%v, %+v", err, v)
	}
	if err := (Members{"n": []byte(`"x"`)}).Decode(&v); err == nil || !strings.Contains(err.Error(), `"n"`) {
		t.Errorf("wrong type: %v", err)
	}
	if err := m.Decode(v); err == nil {
		t.Error("not a pointer: no error")
	}
	var fresh Members
	if err := fresh.Set(struct {
		A string `json:"a"`
	}{"<&>"}); err != nil || string(fresh["a"]) != `"<&>"` {
		t.Errorf("%v, %s", err, fresh["a"])
	}
	if err := m.Set(map[string]any{"n": 4}); err != nil || string(m["n"]) != "4" || string(m["z"]) != "1" {
		t.Errorf("%v, %s", err, m)
	}
	if err := m.Set(3); err == nil {
		t.Error("not an object: no error")
	}
}

func TestStrictMembersAreAllKnown(t *testing.T) {
	t.Parallel()
	type inner struct {
		Type string `json:"type"`
	}
	type outer struct {
		Blob   []byte `json:"blob"`
		Inner  *inner `json:"inner,omitempty"`
		Ignore int    `json:"-"`
		Plain  int
	}
	var v outer
	if err := (Members{"blob": []byte(`"/w=="`), "inner": []byte(`{"type":"ext4"}`)}).DecodeStrict(&v); err != nil || v.Inner == nil || v.Inner.Type != "ext4" || v.Blob[0] != 0xff {
		t.Errorf("%+v, %v", v, err)
	}
	for name, c := range map[string]struct {
		members Members
		says    string // empty if there is no error
	}{
		"nothing":              {Members{}, ""},
		"null":                 {Members{"inner": []byte(`null`)}, ""},
		"unknown":              {Members{"blob": []byte(`""`), "Blob": []byte(`""`)}, `unknown member "Blob"`},
		"unknown inside":       {Members{"inner": []byte(`{"type":"ext4","label":"x"}`)}, `"inner": unknown member "label"`},
		"without a name":       {Members{"": []byte(`1`)}, `unknown member ""`},
		"field without tag":    {Members{"Plain": []byte(`1`)}, `unknown member "Plain"`},
		"field that is hidden": {Members{"-": []byte(`1`)}, `unknown member "-"`},
		"another type":         {Members{"blob": []byte(`3`)}, `"blob"`},
		"another type inside":  {Members{"inner": []byte(`{"type":3}`)}, `"inner": member "type"`},
		"no object":            {Members{"inner": []byte(`[]`)}, `"inner"`},
	} {
		var v outer
		err := c.members.DecodeStrict(&v)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if c.says == "" && v.Inner != nil {
			t.Errorf("%s: made %+v", name, v)
		}
	}
}
