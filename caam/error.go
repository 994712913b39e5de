// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"fmt"
	"strings"

	"imxcrypt/internal/fault"
)

// Kind classifies an [Error] by what to do about it.
type Kind string

const (
	// NoDevice: there is no CAAM. Err distinguishes two cases: ENOENT is a missing device
	// node (module not loaded, or no BSP kernel); ENXIO, ENODEV and ENOTTY are a node
	// without that driver behind it.
	NoDevice Kind = "no device"
	// NotInitialised: the driver is there but has no job ring (ENODEV).
	NotInitialised Kind = "not initialised"
	// NoPermission: this user may not open the device node.
	NoPermission Kind = "no permission"
	// NoProgram: caam-keygen is not installed, or cannot be run.
	NoProgram Kind = "no program"
	// Rejected: the hardware's integrity check of a blob failed (EBADMSG). The blob is
	// from another chip or another security state, or it is damaged.
	Rejected Kind = "rejected"
	// Damaged: not a well-formed blob or black key; found before the hardware was used.
	Damaged Kind = "damaged"
	// Mismatch: the returned object is well-formed but differs from the request, in wrap
	// or in key length.
	Mismatch Kind = "mismatch"
	// BadArgument: the request itself cannot be carried out.
	BadArgument Kind = "bad argument"
	// Failed: anything else.
	Failed Kind = "failed"
)

// Error is the type of all errors that a user may see. It never holds key material.
type Error struct {
	// Op is what was tried: "open", "create", "import", "parse blob" …
	Op string
	// Path is the device node, program or file; empty for bytes in memory.
	Path string
	Kind Kind
	// Reason is our explanation; may be empty.
	Reason string
	// Text is the kernel's or caam-keygen's message; may be empty.
	Text string
	// Err is the cause, for system calls the errno; may be nil.
	Err error
}

func (e *Error) Error() string {
	parts := make([]string, 0, 5)
	if e.Path != "" {
		parts = append(parts, e.Path)
	}
	parts = append(parts, e.Op)
	if e.Reason != "" {
		parts = append(parts, e.Reason)
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	if e.Text != "" {
		parts = append(parts, fmt.Sprintf("it said %q", e.Text))
	}
	if e.Reason == "" && e.Err == nil {
		parts = append(parts, string(e.Kind))
	}
	return strings.Join(parts, ": ")
}

func (e *Error) Unwrap() error { return e.Err }

// FaultCode makes Error a [fault.Coder].
func (e *Error) FaultCode() fault.Code {
	switch e.Kind {
	case NoDevice:
		return fault.CAAMMissing
	case NotInitialised:
		return fault.CAAMNotReady
	case NoPermission:
		return fault.PermissionMissing
	case NoProgram:
		return fault.ProgramMissing
	case Rejected:
		return fault.BlobRejected
	case Damaged:
		return fault.BlobDamaged
	case Mismatch:
		return fault.KeyLengthMismatch
	case BadArgument:
		return fault.CAAMBadArgument
	default:
		return fault.CAAMFailed
	}
}
