// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"imxcrypt/internal/crashtest"
)

// damages are kinds of damage to the two copies of a header; whole reports whether what
// is left completes the header.
func damages() map[string]struct {
	do    func(im *crashtest.Image, size int64)
	whole bool
} {
	put := func(im *crashtest.Image, at, n int64, with byte) {
		b := make([]byte, n)
		if _, err := im.ReadAt(b, at); err != nil {
			panic(err)
		}
		for i := range b {
			if with == 0 {
				b[i] = 0
			} else {
				b[i] ^= with
			}
		}
		if _, err := im.WriteAt(b, at); err != nil {
			panic(err)
		}
	}
	garbage := func(im *crashtest.Image, at, n int64) {
		b := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{3}).Read(b) // never fails
		if _, err := im.WriteAt(b, at); err != nil {
			panic(err)
		}
	}
	type damage = struct {
		do    func(im *crashtest.Image, size int64)
		whole bool
	}
	return map[string]damage{
		"a byte in each text": {func(im *crashtest.Image, size int64) {
			put(im, binarySize+20, 1, 1)
			put(im, size+binarySize+300, 1, 4)
		}, true},
		"bytes of one sector": {func(im *crashtest.Image, size int64) {
			put(im, binarySize+20, 2, 1)
			put(im, size+binarySize+40, 2, 4)
		}, true},
		"the text of the first, the binary header of the second": {func(im *crashtest.Image, size int64) {
			garbage(im, binarySize, 512)
			put(im, size, 512, 0)
		}, true},
		"the binary header of the first, the text of the second": {func(im *crashtest.Image, size int64) {
			put(im, 0, 512, 0)
			put(im, size+binarySize, size-binarySize, 0)
		}, true},
		"a sector of each text, and the first magic number": {func(im *crashtest.Image, size int64) {
			put(im, 0, 6, 0)
			garbage(im, binarySize, 100)
			put(im, size+binarySize+512, 512, 0)
		}, true},
		"both checksums": {func(im *crashtest.Image, size int64) {
			put(im, offChecksum, 3, 1)
			put(im, size+offChecksum, 3, 1)
		}, true},
		"both magic numbers": {func(im *crashtest.Image, size int64) {
			put(im, 0, 6, 0)
			put(im, size, 6, 0)
		}, true},
		"the first label, the second uuid": {func(im *crashtest.Image, size int64) {
			put(im, offLabel, 3, 1)
			put(im, size+offUUID, 3, 1)
		}, true},
		"the same byte of both texts": {func(im *crashtest.Image, size int64) {
			put(im, binarySize+20, 1, 1)
			put(im, size+binarySize+20, 1, 1)
		}, false},
		"both binary headers": {func(im *crashtest.Image, size int64) {
			put(im, 0, 512, 0)
			put(im, size, 512, 0)
		}, false},
		"everything":    {func(im *crashtest.Image, size int64) { garbage(im, 0, 2*size) }, false},
		"nothing there": {func(im *crashtest.Image, size int64) { put(im, 0, 2*size, 0) }, false},
	}
}

func TestTwoDamagedCopiesCompleteEachOther(t *testing.T) {
	t.Parallel()
	for name, c := range damages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			im := oldDisk(t, changed(t, newHeader(t)))
			want := im.Bytes()
			h, _, err := Read(im, im.Size())
			if err != nil {
				t.Fatal(err)
			}
			c.do(im, h.copySize)
			before := im.Bytes()
			_, _, readErr := Read(im, im.Size())
			if readErr == nil {
				t.Fatal("the damage does nothing")
			}
			done, err := Complete(im, im.Size())
			if !bytes.Equal(before, im.Bytes()) {
				t.Fatal("written by looking")
			}
			if !c.whole {
				// If both texts have the same wrong byte, that is what both copies say.
				if done != nil && done.Checksummed || done == nil && err == nil {
					t.Fatalf("completed: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := done.Write(im); err != nil {
				t.Fatal(err)
			}
			if done.Checksummed && !bytes.Equal(im.Bytes()[binarySize:h.copySize], want[binarySize:h.copySize]) {
				t.Fatal("the text is another")
			}
			again, copies, err := Read(im, im.Size())
			if err != nil || !copies.Intact() || again.SeqID != h.SeqID || again.UUID != h.UUID || again.Label != h.Label {
				t.Fatalf("%+v %v", copies, err)
			}
		})
	}
}

// A header that can be used is not completed, and what was written on purpose is not
// guessed at.
func TestCompletingLeavesAloneWhatIsNotDamage(t *testing.T) {
	t.Parallel()
	im := oldDisk(t, newHeader(t))
	if done, err := Complete(im, im.Size()); done != nil || err != nil {
		t.Fatalf("a sound header: %v", err)
	}
	// A matching checksum, but the text is not a header's.
	h, _, err := Read(im, im.Size())
	if err != nil {
		t.Fatal(err)
	}
	for i, secondary := range []bool{false, true} {
		buf := encodeCopy(h.binary(secondary), []byte("{}"), secondary)
		if _, err := im.WriteAt(buf, int64(i)*h.copySize); err != nil {
			t.Fatal(err)
		}
	}
	rule := (*InvalidError)(nil)
	if done, err := Complete(im, im.Size()); done != nil || !errors.As(err, &rule) {
		t.Fatalf("%v", err)
	}
}

// Wherever power is cut while a completed header is written, and once more: what is there
// is the header, or completes it.
func TestEveryPowerCutOfCompleting(t *testing.T) {
	t.Parallel()
	states := 0
	for name, c := range damages() {
		if !c.whole {
			continue
		}
		im := oldDisk(t, changed(t, newHeader(t)))
		h, _, err := Read(im, im.Size())
		if err != nil {
			t.Fatal(err)
		}
		c.do(im, h.copySize)
		var finish func(from *crashtest.Image, cuts int)
		finish = func(from *crashtest.Image, cuts int) {
			rec, disk := crashtest.Record(from)
			done, err := Complete(disk, disk.Size())
			if err == nil && done != nil {
				err = done.Write(disk)
			} else if err == nil {
				_, err = RepairOver(disk)
			}
			if err != nil {
				t.Fatalf("%s, %d more cuts: %v", name, cuts, err)
			}
			again, copies, err := Read(disk, disk.Size())
			if err != nil || !copies.Intact() || again.SeqID != h.SeqID || again.UUID != h.UUID {
				t.Fatalf("%s: %+v %v", name, copies, err)
			}
			if cuts == 0 {
				return
			}
			o := crashtest.Options{Exhaustive: 4, Limit: 24, Random: 8}
			if cuts == 1 {
				o = crashtest.Options{Exhaustive: 2, Limit: 3, Random: 2}
			}
			for state := range rec.States(o) {
				states++
				finish(state.Image(disk), cuts-1)
			}
		}
		finish(im, 2)
	}
	t.Logf("%d states tried, 0 lost", states)
}

func FuzzComplete(f *testing.F) {
	for _, c := range damages() {
		im := oldDisk(f, newHeader(f))
		c.do(im, DefaultCopySize)
		f.Add(im.Bytes()[:2*DefaultCopySize])
	}
	f.Fuzz(func(t *testing.T, start []byte) {
		dev := &memory{data: start, size: 1 << 20}
		before := bytes.Clone(start)
		c, err := Complete(dev, dev.size)
		if !bytes.Equal(before, start) || dev.writes > 0 {
			t.Fatal("written")
		}
		if c == nil || err != nil {
			return
		}
		if _, copies, err := Read(&memory{data: c.Image, size: 1 << 40}, 1<<40); err != nil && copies.Primary.State != CopyInvalid || copies.Conflict {
			t.Fatalf("completed to what is no header: %v %+v", err, copies)
		}
	})
}
