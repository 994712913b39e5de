// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// waitFor waits until there() is true, checking on each change in the directory. It
// returns the context's error if that ends first.
func waitFor(ctx context.Context, dir string, there func() bool) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	// Non-blocking, so that the runtime polls it and a deadline ends the wait.
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ATTRIB|unix.IN_ONLYDIR); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// The first check comes after the watch, so that nothing is missed in between.
	for buf := make([]byte, 4096); !there(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := f.Read(buf); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	return nil
}
