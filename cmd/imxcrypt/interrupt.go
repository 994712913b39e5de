// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// interruptible is a context that SIGINT and SIGTERM end. It is never given back:
// that takes a thread more, and the process's end does it anyway.
func interruptible(args []string) context.Context {
	if len(args) > 0 && args[0] == "boot" {
		return &untilWaited{}
	}
	return signalled()
}

func signalled() context.Context {
	ctx, _ := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	return ctx
}

// untilWaited is the context of the command boot, which an initramfs waits for. To
// be told of signals takes two threads more, so they are made only when somebody
// waits for the context to end, or says so by asking for Done: while a device is
// missing, a filesystem is checked, or a mapping in use may be suspended. Until
// then a signal kills, as it kills any program. What such a run leaves are mappings
// that nothing is told of, and the next boot, unlock or lock takes them away.
type untilWaited struct {
	once   sync.Once
	signal atomic.Pointer[context.Context] // nil until somebody waited
}

func (u *untilWaited) Done() <-chan struct{} {
	u.once.Do(func() {
		ctx := signalled()
		u.signal.Store(&ctx)
	})
	return u.now().Done()
}

func (u *untilWaited) Err() error { return u.now().Err() }

// Value is what context.Cause looks through.
func (u *untilWaited) Value(key any) any { return u.now().Value(key) }

func (u *untilWaited) Deadline() (time.Time, bool) { return time.Time{}, false }

func (u *untilWaited) now() context.Context {
	if ctx := u.signal.Load(); ctx != nil {
		return *ctx
	}
	return context.Background()
}
