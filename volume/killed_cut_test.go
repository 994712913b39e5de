// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
)

// What a killed run left may not be durable. The next run builds on it, so it makes it
// durable first: after a power cut the volume opens, with what the user has flushed to
// it.
func TestKilledThenFinishedThenAPowerCut(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	kills, states, step := 0, 0, stride("kill")
	for name, c := range sampled(t, t.Name(), crashCases(), 2) {
		if c.wipe || c.fill != 0 {
			continue
		}
		s := newSpec()
		if c.spec != nil {
			c.spec(&s)
		}
		empty := c.start()
		for at := 1; ; at += step {
			run := record(empty.chip, empty.disk.Overlay(), empty.files.Overlay())
			provision := func() error {
				_, err := run.board.Manager().Provision(ctx, s, volume.ProvisionOptions{})
				return err
			}
			if !kill(run.board, at, func() { _ = provision() }) {
				break
			}
			kills++
			if err := provision(); err != nil {
				t.Fatalf("%s: killed at change %d: the next run: %v", name, at, err)
			}
			put(t, run.board, userText)
			done := run.epoch()
			for state := range run.rec.States(crashtest.Options{
				Exhaustive: 3, Limit: 3, Random: -1, Epochs: func(n int) bool { return n >= done },
			}) {
				states++
				next := boardOver(empty.chip, state.Image(run.disk), state.Image(run.files))
				next.Chip.PowerCycle()
				if _, err := next.Manager().Unlock(ctx, s, volume.UnlockOptions{}); err != nil {
					t.Fatalf("%s: killed at change %d, finished, used, and then %v: %v", name, at, state, err)
				}
				if got := get(t, next, len(userText)); got != userText {
					t.Fatalf("%s: killed at change %d, finished, used, and then %v: data lost: %q", name, at, state, got)
				}
			}
		}
	}
	t.Logf("%d kills, %d states tried after the next run, 0 lost", kills, states)
}
