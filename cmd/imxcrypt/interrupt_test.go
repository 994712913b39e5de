// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Not parallel: it gets the process a signal.
func TestOpeningHandlesSignalsFromTheFirstWait(t *testing.T) {
	t.Cleanup(func() { signal.Reset(unix.SIGINT, unix.SIGTERM) })
	u := &untilWaited{}
	if u.Err() != nil || context.Cause(u) != nil || u.signal.Load() != nil {
		t.Fatalf("%v, %v before anybody waited", u.Err(), context.Cause(u))
	}
	derived, cancel := context.WithTimeout(u, time.Minute)
	defer cancel()
	if u.signal.Load() == nil {
		t.Fatal("a context that was made from it would not end")
	}
	if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for what, ctx := range map[string]context.Context{"itself": u, "one made from it": derived} {
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s has not ended", what)
		}
		if !errors.Is(ctx.Err(), context.Canceled) || context.Cause(ctx) == nil {
			t.Errorf("%s: %v, %v", what, ctx.Err(), context.Cause(ctx))
		}
	}
}
