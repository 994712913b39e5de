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

// Harden makes the calling process one that may hold keys: not traceable or
// readable by others of the same user (PR_SET_DUMPABLE 0), without core dumps
// (RLIMIT_CORE 0), and with memory that is locked as it is touched, so that
// no copy the runtime makes can reach swap.
//
// The error tells which of the three was refused; the first two never are for
// root. Locking everything may be (RLIMIT_MEMLOCK without CAP_IPC_LOCK); key
// buffers are locked one by one all the same, and New fails if they cannot be.
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

// HardenData is Harden for a process that is done at once, at boot: of what is
// mapped already it locks what can be written, that being all that could reach
// swap. The program's own code is two thirds of the pages, and locking them and
// letting go of them at the end takes a sixth of the time that opening a volume
// takes.
func HardenData() error {
	if err := undumpable(); err != nil {
		return err
	}
	if err := unix.Mlockall(unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return lockRefused("lock the process's memory", err)
	}
	// What is mapped from here on is locked, so that the list misses nothing.
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
			// Another thread of the runtime has given a part of it back since
			// the list was read. The kernel's own list is always right.
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

// lockRefused explains that memory could not be locked: but for root the limit
// RLIMIT_MEMLOCK applies, and reaching it is ENOMEM or EAGAIN.
func lockRefused(what string, err error) error {
	if errors.Is(err, unix.EPERM) || os.Geteuid() != 0 {
		return fault.New(fault.PermissionMissing, what+": only root may lock as much as is needed", err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
