// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/spec"
)

// An error is an interruption if it wraps the end of the context, not if it merely
// occurred after the context had ended.
func TestOnlyAnInterruptionIsOne(t *testing.T) {
	t.Parallel()
	stopped, stop := context.WithCancelCause(context.Background())
	asked := errors.New("interrupt signal received")
	stop(asked)
	for name, c := range map[string]struct {
		ctx  context.Context
		err  error
		code fault.Code
	}{
		"the context's own":               {stopped, fmt.Errorf("wait: %w", context.Canceled), fault.Interrupted},
		"the context's cause":             {stopped, fmt.Errorf("wait: %w", asked), fault.Interrupted},
		"a rotation that paused":          {stopped, fmt.Errorf("rotate: %w", reencrypt.ErrPaused), fault.Interrupted},
		"a wrong key, at the same moment": {stopped, fault.Newf(fault.KeyWrong, "no"), fault.KeyWrong},
		"an I/O error":                    {stopped, fault.Newf(fault.IOFailed, "no"), fault.IOFailed},
		"without an end":                  {context.Background(), fault.Newf(fault.IOFailed, "no"), fault.IOFailed},
	} {
		if got := fault.CodeOf(Failed(c.ctx, "unlock", spec.Volume{Name: "data"}, c.err)); got != c.code {
			t.Errorf("%s: %s, expected %s", name, got, c.code)
		}
	}
}
