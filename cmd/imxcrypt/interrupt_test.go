// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// Not parallel: it sends the process a signal.
func TestOpeningHandlesSignalsFromTheFirstWait(t *testing.T) {
	t.Cleanup(func() { signal.Reset(unix.SIGINT, unix.SIGTERM, unix.SIGQUIT) })
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

const waitsFor = "IMXCRYPT_TEST_WAITS_FOR"

// TestWaits is the process that TestSIGQUITIsNoUsageError sends a signal to.
func TestWaits(t *testing.T) {
	command := os.Getenv(waitsFor)
	if command == "" {
		return // not run as that process
	}
	crashBySignal()
	ctx := interruptible([]string{command})
	if command == "rotate" { // the others wait for the context only when they have to
		context.AfterFunc(ctx, func() { os.Exit(int(fault.ExitOf(fault.New(fault.Interrupted, "stopped", nil)))) })
	}
	_, _ = os.Stdout.WriteString("waits\n")
	time.Sleep(time.Minute)
}

// The runtime's own response to SIGQUIT, and to a panic, is exit code 2, which means to
// scripts that the configuration is wrong.
func TestSIGQUITIsNoUsageError(t *testing.T) {
	t.Parallel()
	for command, expected := range map[string]func(unix.WaitStatus) bool{
		"rotate": func(s unix.WaitStatus) bool { return fault.Exit(s.ExitStatus()) == fault.ExitInterrupted },
		"boot":   func(s unix.WaitStatus) bool { return s.Signal() == unix.SIGABRT },
		"unlock": func(s unix.WaitStatus) bool { return s.Signal() == unix.SIGABRT },
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestWaits$")
		cmd.Env = append(os.Environ(), waitsFor+"="+command)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "waits\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if err := cmd.Process.Signal(unix.SIGQUIT); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the status decides
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !expected(unix.WaitStatus(status)) {
			t.Errorf("%s ended with %v", command, cmd.ProcessState)
		}
	}
}
