// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os/signal"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// crashBySignal makes the runtime end the process with SIGABRT instead of exit code 2,
// which is the code of a usage error: after a panic, and after a SIGQUIT that no handler
// catches.
func crashBySignal() { debug.SetTraceback("crash") }

// interruptible returns a context that SIGINT, SIGTERM and SIGQUIT cancel. It is never
// released: that would take another thread, and the end of the process does it anyway.
func interruptible(args []string) context.Context {
	if len(args) > 0 && (args[0] == "boot" || args[0] == "unlock") {
		return &untilWaited{}
	}
	return signalled()
}

func signalled() context.Context {
	ctx, _ := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	return ctx
}

// untilWaited is the context of boot and unlock, which the system's start waits for.
// Handling signals takes two more threads, so they are started only when a caller
// asks for Done: when a device is missing, a filesystem is checked, or a mapping in
// use may be suspended. Until then a signal kills the program. A run that is killed
// leaves unannounced mappings, which the next boot, unlock or lock removes.
type untilWaited struct {
	once   sync.Once
	signal atomic.Pointer[context.Context] // nil until a caller waits
}

func (u *untilWaited) Done() <-chan struct{} {
	u.once.Do(func() {
		ctx := signalled()
		u.signal.Store(&ctx)
	})
	return u.now().Done()
}

func (u *untilWaited) Err() error { return u.now().Err() }

// Value is what context.Cause calls.
func (u *untilWaited) Value(key any) any { return u.now().Value(key) }

func (u *untilWaited) Deadline() (time.Time, bool) { return time.Time{}, false }

func (u *untilWaited) now() context.Context {
	if ctx := u.signal.Load(); ctx != nil {
		return *ctx
	}
	return context.Background()
}
