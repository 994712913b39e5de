// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"imxcrypt/internal/crashtest"
	"imxcrypt/volume/volumetest"
)

// cutTwice calls resume for each state that a power cut may leave of a recorded command,
// or for a sample of them; now and then the resumed run is cut off, too.
func cutTwice(t *testing.T, run *recording, resume func(*testing.T, *recording, string)) (first, second int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(5, uint64(len(t.Name()))))
	for state := range run.rec.States(crashLimits()) {
		if rng.IntN(someStates()) != 0 {
			continue
		}
		first++
		next := record(run.board.Chip, state.Image(run.disk), state.Image(run.files))
		resume(t, next, state.String())
		if rng.IntN(secondCut()) != 0 {
			continue
		}
		for cut := range next.rec.States(crashtest.Options{Exhaustive: 3, Limit: 2, Random: 2, Seed: uint64(first)}) {
			if rng.IntN(someStates()) != 0 {
				continue
			}
			second++
			resume(t, record(run.board.Chip, cut.Image(next.disk), cut.Image(next.files)), state.String()+"; then "+cut.String())
		}
	}
	return first, second
}

// cutCount counts the states of parallel enumerations.
type cutCount struct{ first, second atomic.Int64 }

func (c *cutCount) count(t *testing.T, first, second int) {
	t.Helper()
	c.first.Add(int64(first))
	c.second.Add(int64(second))
	t.Logf("%d states tried, %d of them after a second cut, 0 lost", first+second, second)
}

// logWhenDone logs the totals once the test and its parallel parts are done.
func (c *cutCount) logWhenDone(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		t.Logf("in all: %d states tried, %d of them after a second cut, 0 lost", c.first.Load()+c.second.Load(), c.second.Load())
	})
}

// readDuring reads the whole volume, starting before command runs. A held zone may block
// the read until then; readDuring reports whether it did.
func readDuring(t *testing.T, b *volumetest.Board, what string, want []byte, command func() error) (waited bool) {
	t.Helper()
	f, err := b.Mapping("data", false)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan []byte, 1)
	go func() {
		all := make([]byte, len(want))
		if _, err := f.ReadAt(all, 0); err != nil {
			t.Error(err)
		}
		read <- all
	}()
	select {
	case got := <-read:
		same(t, what, got, want)
		read <- got
	case <-time.After(20 * time.Millisecond):
		waited = true
	}
	if err := command(); err != nil {
		t.Fatalf("%s: %v\n%s", what, err, b.DM.State())
	}
	select {
	case got := <-read:
		same(t, what, got, want)
	case <-time.After(5 * time.Minute):
		t.Fatalf("%s: the reader waits for ever\n%s", what, b.DM.State())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return waited
}
