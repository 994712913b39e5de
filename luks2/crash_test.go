// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/json"
	"errors"
	"os"
	"testing"

	"imxcrypt/internal/blank"
	"imxcrypt/internal/crashtest"
)

// crashOptions covers 32 sectors of a copy by prefixes, losses, survivors and tears, and
// random subsets; all subsets if ten sectors or fewer differ.
var crashOptions = crashtest.Options{Random: 64, Seed: 2, Limit: 256}

// soak makes the long tests run in full; the environment sets it.
var soak = os.Getenv("IMXCRYPT_SOAK") != ""

// secondCutSlice says, without soak, of how many states one is cut a second time.
const secondCutSlice = 16

// changed returns the header after a change that touches every part of it: most sectors
// of the text differ.
func changed(t testing.TB, h *Header) *Header {
	t.Helper()
	c := h.Clone()
	token := c.Metadata.Tokens["0"]
	if err := token.Extra.Set(map[string]any{"phase": "ready", "aaa": filler(3000)}); err != nil {
		t.Fatal(err)
	}
	c.Metadata.Tokens["0"] = token
	c.Require("imxcrypt-rotate-v1")
	return c
}

func filler(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(i*7%26)
	}
	return string(b)
}

// phase returns which of the two contents a header has.
func phase(t *testing.T, h *Header) string {
	t.Helper()
	var v struct {
		Phase string `json:"phase"`
	}
	if err := h.Metadata.Tokens["0"].Extra.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v.Phase
}

// oldDisk returns a disk with a header, written through the disk so that its state is an
// image.
func oldDisk(t testing.TB, h *Header) *crashtest.Image {
	t.Helper()
	im := crashtest.NewImage(testSize)
	if err := h.Format(im); err != nil {
		t.Fatal(err)
	}
	// Increase the number, so that "older" really is older.
	if err := h.Write(im); err != nil {
		t.Fatal(err)
	}
	return im
}

// mustRead requires the old or the new header, and the new one if only that is left. It
// returns which.
func mustRead(t *testing.T, s *crashtest.State, im *crashtest.Image, oldSeq uint64) string {
	t.Helper()
	h, copies, err := Read(im, im.Size())
	if err != nil {
		t.Fatalf("%v: %v (%+v)", s, err, copies)
	}
	if copies.Conflict {
		t.Fatalf("%v: two copies with number %d differ", s, h.SeqID)
	}
	p := phase(t, h)
	if want := map[uint64]string{oldSeq: "provisioning", oldSeq + 1: "ready"}[h.SeqID]; p != want {
		t.Fatalf("%v: number %d with phase %q", s, h.SeqID, p)
	}
	return p
}

func TestPowerLossWhileFormatting(t *testing.T) {
	t.Parallel()
	for _, fill := range []byte{0x00, 0xff} {
		// Over 0xFF all 32 sectors of a copy differ, over 0x00 only those with text.
		r, d := crashtest.Record(crashtest.NewFilledImage(testSize, fill))
		h := changed(t, newHeader(t))
		if err := h.Format(d); err != nil {
			t.Fatal(err)
		}
		states, found, again := 0, 0, 0
		for s := range r.States(crashOptions) {
			states++
			im := s.Image(d)
			got, _, err := Read(im, im.Size())
			if err == nil {
				found++
				if got.UUID != h.UUID || got.SeqID != 1 {
					t.Fatalf("%v: read %+v", s, got)
				}
				if _, err := Repair(im); err != nil {
					t.Fatalf("%v: repair: %v", s, err)
				}
				if _, copies, _ := Read(im, im.Size()); !copies.Intact() {
					t.Fatalf("%v: not intact after the repair: %+v", s, copies)
				}
				continue
			}
			// Otherwise there is nothing yet. That is recognized, and formatting again
			// succeeds.
			var damaged *DamagedError
			if !errors.Is(err, ErrNotLUKS) && !errors.As(err, &damaged) {
				t.Fatalf("%v: %v", s, err)
			}
			start := make([]byte, 2*DefaultCopySize)
			if _, err := im.ReadAt(start, 0); err != nil {
				t.Fatal(err)
			}
			if start[0] != fill || !blank.Erased(start) {
				area, unfinished, err := Unfinished(im, im.Size())
				if err != nil || !unfinished || area != int64(len(start)) {
					t.Fatalf("%v: not recognised as unfinished: %d, %v", s, area, err)
				}
			}
			again++
			if err := newHeader(t).Format(im); err != nil {
				t.Fatalf("%v: format again: %v", s, err)
			}
		}
		t.Logf("%d states of Format over %#02x: %d with the header, %d with nothing", states, fill, found, again)
		if found == 0 || again == 0 {
			t.Error("only one kind of state was seen")
		}
	}
}

func TestPowerLossWhileWriting(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, im *crashtest.Image, old *Header){
		"both copies good":      func(*testing.T, *crashtest.Image, *Header) {},
		"first copy damaged":    func(t *testing.T, im *crashtest.Image, _ *Header) { scribble(t, im, 0x1100) },
		"second copy damaged":   func(t *testing.T, im *crashtest.Image, _ *Header) { scribble(t, im, 0x5100) },
		"second copy torn away": func(t *testing.T, im *crashtest.Image, _ *Header) { wipe(t, im, 0x4000, 0x4000) },
		"first copy blank":      func(t *testing.T, im *crashtest.Image, _ *Header) { wipe(t, im, 0, 0x4000) },
		"first copy older":      func(t *testing.T, im *crashtest.Image, old *Header) { makeOlder(t, im, old, 0) },
		"second copy older":     func(t *testing.T, im *crashtest.Image, old *Header) { makeOlder(t, im, old, 0x4000) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHeader(t)
			base := oldDisk(t, h)
			spoil(t, base, h)
			r, d := crashtest.Record(base)
			next := changed(t, h)
			if err := next.Write(d); err != nil {
				t.Fatal(err)
			}
			states, second := 0, 0
			seen := map[string]int{}
			for s := range r.States(crashOptions) {
				states++
				seen[mustRead(t, s, s.Image(d), h.SeqID)]++
				if soak || states%secondCutSlice == 0 {
					second += secondCut(t, s, d, h.SeqID)
				}
			}
			t.Logf("%d states of Write with %s (%d old, %d new), %d of a second cut during the repair",
				states, name, seen["provisioning"], seen["ready"], second)
			if seen["provisioning"] == 0 || seen["ready"] == 0 {
				t.Error("only one of the two headers was seen")
			}
		})
	}
}

// secondCut lets the next run repair or overwrite what the first cut left, and cuts it
// again. It returns the number of states.
func secondCut(t *testing.T, s *crashtest.State, d *crashtest.Disk, oldSeq uint64) int {
	t.Helper()
	im := s.Image(d)
	before := mustRead(t, s, im, oldSeq)
	r, again := crashtest.Record(im)
	repaired, err := Repair(again)
	if err != nil {
		t.Fatalf("%v: repair: %v", s, err)
	}
	if !repaired {
		return 0
	}
	n := 0
	for s2 := range r.States(crashtest.Options{Exhaustive: 4, Limit: 8, Random: 4, Seed: uint64(n)}) {
		n++
		im := s2.Image(again)
		if got := mustRead(t, s2, im, oldSeq); got != before {
			t.Fatalf("%v, then %v: was %s, now %s", s, s2, before, got)
		}
	}
	live := again.Live()
	if _, copies, err := Read(live, live.Size()); err != nil || !copies.Intact() {
		t.Fatalf("%v: after the repair: %v, %+v", s, err, copies)
	}
	return n
}

func TestPowerLossWhileRestoring(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, im *crashtest.Image){
		"both copies good": func(*testing.T, *crashtest.Image) {},
		"first copy overwritten by a filesystem": func(t *testing.T, im *crashtest.Image) {
			fill(t, im, 0, 0x1000, 0x5a)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHeader(t)
			base := oldDisk(t, h)
			backup := changed(t, h)
			backup.SeqID = 1
			spoil(t, base)
			r, d := crashtest.Record(base)
			if err := backup.Restore(d); err != nil {
				t.Fatal(err)
			}
			states := 0
			for s := range r.States(crashOptions) {
				states++
				mustRead(t, s, s.Image(d), h.SeqID)
			}
			t.Logf("%d states of Restore with %s", states, name)
		})
	}
}

// TestWithoutRepairingFirstASecondCutLosesBoth shows why step 2 of the protocol exists:
// with one copy damaged, writing the second copy at once overwrites the only good one.
func TestWithoutRepairingFirstASecondCutLosesBoth(t *testing.T) {
	t.Parallel()
	h := newHeader(t)
	base := oldDisk(t, h)
	scribble(t, base, 0x1100) // the first copy
	r, d := crashtest.Record(base)
	next, err := changed(t, h).next(h.SeqID)
	if err != nil {
		t.Fatal(err)
	}
	text, err := next.encode(next.place(testSize))
	if err != nil {
		t.Fatal(err)
	}
	if err := next.writeCopies(d, text); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for s := range r.States(crashOptions) {
		if im := s.Image(d); isDamaged(Read(im, im.Size())) {
			lost++
		}
	}
	if lost == 0 {
		t.Error("nothing was lost: the enumeration does not see what it is for")
	}
	t.Logf("%d states lost without step 2", lost)
}

func isDamaged(_ *Header, _ Copies, err error) bool {
	var damaged *DamagedError
	return errors.As(err, &damaged)
}

// scribble damages one byte of the text of a copy.
func scribble(t *testing.T, im *crashtest.Image, off int64) {
	t.Helper()
	b := make([]byte, 1)
	if _, err := im.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x01
	if _, err := im.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, im *crashtest.Image, off, n int64, v byte) {
	t.Helper()
	b := make([]byte, n)
	for i := range b {
		b[i] = v
	}
	if _, err := im.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func wipe(t *testing.T, im *crashtest.Image, off, n int64) { t.Helper(); fill(t, im, off, n, 0) }

// makeOlder replaces one copy with the previous generation of the header, as an
// interrupted write leaves it.
func makeOlder(t *testing.T, im *crashtest.Image, h *Header, off int64) {
	t.Helper()
	old := h.Clone()
	old.SeqID--
	token := old.Metadata.Tokens["0"]
	token.Extra = token.Extra.clone()
	token.Extra["phase"] = json.RawMessage(`"ancient"`)
	old.Metadata.Tokens["0"] = token
	text, err := old.encode(old.place(testSize))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.WriteAt(encodeCopy(old.binary(off != 0), text, off != 0), off); err != nil {
		t.Fatal(err)
	}
}
