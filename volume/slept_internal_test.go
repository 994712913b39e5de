// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// A busy system, on which time passes between reading the clocks, is not taken for one
// that slept.
func TestABusySystemHasNotSlept(t *testing.T) {
	t.Parallel()
	var stop atomic.Bool
	defer stop.Store(true)
	for range 4 * runtime.NumCPU() {
		go func() {
			for spins := 0; ; spins++ {
				if spins%1000 == 0 && stop.Load() {
					return
				}
			}
		}()
	}
	before := slept()
	rounds := 200
	if testing.Short() {
		rounds = 40
	}
	for range rounds {
		if now := slept(); now.Since(before) {
			t.Fatalf("from %+v to %+v", before, now)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestSleepIsSeenByCountOrTime(t *testing.T) {
	t.Parallel()
	before := Slept{Times: 3, For: time.Hour}
	for _, c := range []struct {
		now  Slept
		want bool
	}{
		{before, false},
		{Slept{3, time.Hour + 20*time.Millisecond}, false}, // the clocks' own difference
		{Slept{3, time.Hour - 20*time.Millisecond}, false},
		{Slept{4, time.Hour}, true}, // no clock advanced
		{Slept{3, time.Hour + time.Second}, true},
	} {
		if got := c.now.Since(before); got != c.want {
			t.Errorf("%+v: %v", c.now, got)
		}
	}
}
