// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
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
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process not dumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	// ONFAULT: only pages that are really touched are locked (2 MB instead of
	// the 40 MB that a Go program reserves).
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return lockRefused("lock the process in memory", err)
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
