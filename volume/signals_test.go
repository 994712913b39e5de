// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
)

// waits is a context that notes whether anybody asked for notice of its end. The
// command boot has no handler of signals before.
type waits struct {
	context.Context
	asked bool
}

func (w *waits) Done() <-chan struct{} {
	w.asked = true
	return w.Context.Done()
}

// A boot that has to wait for nothing does not pay for notice of signals; one
// that finds the volume open, and may suspend what is in use, gets notice of them.
func TestSignalsAreHandledWhereSomethingIsInUse(t *testing.T) {
	t.Parallel()
	b := newBoard(crashtest.NewImage(64 * mib))
	r, err := b.Manager().Provision(context.Background(), newSpec(), volume.ProvisionOptions{})
	must(t, r, err)
	b = powerCycle(b)
	for i, want := range []bool{false, true} {
		ctx := &waits{Context: context.Background()}
		b.Step = func(op string) error {
			if want && !ctx.asked {
				t.Errorf("%s before anybody waits for signals", op)
			}
			return nil
		}
		r, err := b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{Mount: true})
		must(t, r, err)
		if ctx.asked != want {
			t.Errorf("unlock %d: somebody waits for signals: %v, expected %v", i+1, ctx.asked, want)
		}
	}
}
