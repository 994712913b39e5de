// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/plainfile"
)

// Harden prepares the process to hold keys: other processes of the same user
// cannot trace or read it (PR_SET_DUMPABLE 0), it leaves no core dumps
// (RLIMIT_CORE 0), and its memory is locked as it is touched, so that no copy made
// by the runtime can reach swap.
//
// The error says which of the three was refused. The first two are never refused to root.
// Locking everything may be refused (RLIMIT_MEMLOCK without CAP_IPC_LOCK); key buffers
// are still locked one by one, and New fails if they cannot be.
func Harden() error {
	if err := undumpable(); err != nil {
		return err
	}
	// ONFAULT: only pages that are really touched are locked (2 MB instead of
	// the 40 MB that a Go program reserves).
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return lockRefused("lock the process in memory", err)
	}
	return nil
}

// HardenData is Harden for a short-lived process at boot. Of the existing mappings it
// locks only the writable ones, since nothing else can reach swap. The program's code is
// two thirds of the pages, and locking and releasing it would take a sixth of the time of
// opening a volume.
func HardenData() error {
	if err := undumpable(); err != nil {
		return err
	}
	if err := unix.Mlockall(unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return lockRefused("lock the process's memory", err)
	}
	// Later mappings are locked when they are made, so the list misses nothing.
	maps, err := plainfile.Read("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("lock the process's memory: %w", err)
	}
	for line := range strings.Lines(string(maps)) {
		// "4000000000-4000400000 rw-p 00000000 00:00 0"
		span, rest, ok := strings.Cut(line, " ")
		from, to, ok2 := strings.Cut(span, "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if !ok || !ok2 || err1 != nil || err2 != nil || len(rest) < 2 {
			return fmt.Errorf("lock the process's memory: /proc/self/maps has a line %q", line)
		}
		if rest[1] != 'w' {
			continue
		}
		_, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(start), uintptr(end-start), unix.MLOCK_ONFAULT)
		if errno == unix.ENOMEM {
			// Another thread of the runtime has unmapped part of it since the list was
			// read. Harden uses the kernel's own list, which is always right.
			return Harden()
		}
		if errno != 0 {
			return lockRefused("lock the process's memory", errno)
		}
	}
	return nil
}

// undumpable keeps the process from being traced and from leaving core dumps.
func undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process not dumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}

// lockRefused explains why memory could not be locked. Without root, RLIMIT_MEMLOCK
// applies, and exceeding it returns ENOMEM or EAGAIN.
func lockRefused(what string, err error) error {
	if errors.Is(err, unix.EPERM) || os.Geteuid() != 0 {
		return fault.New(fault.PermissionMissing, what+": only root may lock as much as is needed", err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
