// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imxcrypt/internal/fault"
)

// A wake that took too long is given up. The volume then stays suspended, as reported,
// even if the storage answers later.
func TestAWakeThatWasGivenUpDoesNothingLater(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, held := range []string{"load data:check", "load data"} {
		b := mounted(t, newSpec())
		v, err := b.Manager().OpenInUse(ctx, newSpec(), false)
		if err != nil || v == nil {
			t.Fatal(v, err)
		}
		if err := v.Suspend(ctx); err != nil {
			t.Fatal(err)
		}
		answer, finished := make(chan struct{}), make(chan struct{})
		var resumed atomic.Bool
		var steps atomic.Int32
		b.Step = func(what string) error {
			if strings.HasPrefix(what, held) && steps.Add(1) == 1 {
				<-answer
				defer time.AfterFunc(200*time.Millisecond, func() { close(finished) })
			}
			if what == "resume data" {
				resumed.Store(true)
			}
			return nil
		}
		err = v.WakeWithin(ctx, 2*time.Second)
		refused(t, err, fault.IOFailed)
		close(answer)
		select {
		case <-finished:
		case <-time.After(5 * time.Minute):
			t.Fatalf("held at %q: it never came there", held)
		}
		info, err := b.DM.Info("data")
		if err != nil || !info.Suspended || resumed.Load() {
			t.Errorf("held at %q: %+v, %v, resumed %v", held, info, err, resumed.Load())
		}
	}
}
