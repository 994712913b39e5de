// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
)

// waits is a context that notes whether its end was asked for. The command boot installs
// no signal handler before that.
type waits struct {
	context.Context
	asked bool
}

func (w *waits) Done() <-chan struct{} {
	w.asked = true
	return w.Context.Done()
}

// A boot that need not wait does not pay for signal handling. One that finds the volume
// open, and may suspend what is in use, handles signals.
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
