// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/lockfile"
	"imxcrypt/volume"
)

// pauseWait is how long a rotation may take to reach its next zone boundary. It writes
// and flushes up to 32 MiB until then: all that a journal's ring may hold.
const pauseWait = time.Minute

// pauseRotation asks the process that rotates a volume to stop, and waits until
// it has. stopped is false if no process rotates it. If another command uses the volume,
// the error has the code lock-held.
func pauseRotation(ctx context.Context, name string) (stopped bool, err error) {
	held := holderOf(name, &err)
	if held == nil {
		return false, err
	}
	if !rotates(held.Command) {
		return false, held
	}
	fd, err := unix.PidfdOpen(held.PID, 0)
	if err != nil {
		return false, fmt.Errorf("process %d, which rotates %s: %w", held.PID, name, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written to it
	// The PID may have been reused before it was opened; if the process still holds the
	// lock, it was not.
	if now := holderOf(name, &err); now == nil || now.PID != held.PID {
		return now == nil, err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return false, fmt.Errorf("stop process %d, which rotates %s: %w", held.PID, name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, pauseWait)
	defer cancel()
	l, err := lockfile.AcquireWait(ctx, volume.RunDir, name)
	if err != nil {
		return false, err
	}
	return true, l.Release()
}

// rotates reports whether a command line is that of a command that moves data, and not of
// another command whose volume, file or flag has such a name.
func rotates(line string) bool {
	words := strings.Fields(line)
	if len(words) == 0 {
		return false
	}
	c, _, err := new(app).root().Find(words[1:])
	return err == nil && slices.Contains([]string{"imxcrypt rotate", "imxcrypt encrypt", "imxcrypt decrypt"}, c.CommandPath())
}

// resumeInBackground has systemd continue a rotation that a power cut interrupted.
// Without systemd the operator has to: the process would have no supervisor.
func (a *app) resumeInBackground(ctx context.Context, name string) {
	if a.sleeping != nil {
		err := a.sleeping.ResumeRotation(ctx, name)
		if err == nil {
			a.log.Info("the interrupted rotation continues", "volume", name)
			return
		}
		a.log.Debug("the rotation cannot be started", "volume", name, "error", err)
	}
	a.log.Warn("the volume is half-way through a rotation; to continue: imxcrypt rotate --resume-only "+name, "volume", name)
}

// holderOf returns the holder of the volume's lock, or nil if the lock is free or err is
// set.
func holderOf(name string, err *error) *lockfile.HeldError {
	l, failed := lockfile.Acquire(volume.RunDir, name)
	var held *lockfile.HeldError
	if errors.As(failed, &held) {
		return held
	}
	if failed == nil {
		failed = l.Release()
	}
	*err = failed
	return nil
}
