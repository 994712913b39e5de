// SPDX-License-Identifier: Apache-2.0

package main

import "imxcrypt/internal/fault"

// The exit codes that run returns.
const (
	exitDone          = int(fault.ExitDone)
	exitFailed        = int(fault.ExitFailed)
	exitUsage         = int(fault.ExitUsage)
	exitKeyRejected   = int(fault.ExitKeyRejected)
	exitMissing       = int(fault.ExitMissing)
	exitBusy          = int(fault.ExitBusy)
	exitRefused       = int(fault.ExitRefused)
	exitInterrupted   = int(fault.ExitInterrupted)
	exitHeaderDamaged = int(fault.ExitHeaderDamaged)
)
