// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"cmp"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// Error is the type of every error of this package; it never holds a payload.
type Error struct {
	// Op is "add", "search", "read" or "remove".
	Op string
	// Type is the key's type; empty for logon.
	Type string
	// Description is the key's description.
	Description string
	// Err is the cause; errors.Is finds the errno in it.
	Err error
}

func (e *Error) Error() string {
	keyType := cmp.Or(e.Type, keyType)
	what := e.Op + " " + keyType + " key"
	switch {
	case errors.Is(e.Err, unix.ENOSYS):
		what += ": the kernel has no keyrings (CONFIG_KEYS)"
	case errors.Is(e.Err, unix.ENODEV):
		what += ": the kernel does not know keys of that type"
	case errors.Is(e.Err, unix.EEXIST):
		what += ": the thread has one of that name already"
	case errors.Is(e.Err, unix.EDQUOT):
		what += ": the quota for keys is used up (/proc/sys/kernel/keys)"
	}
	return fmt.Sprintf("%q: %s: %v", e.Description, what, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// FaultCode makes Error a [fault.Coder].
func (e *Error) FaultCode() fault.Code {
	switch {
	case errors.Is(e.Err, unix.ENOSYS), errors.Is(e.Err, unix.ENODEV):
		return fault.KeyringMissing
	case errors.Is(e.Err, unix.EPERM), errors.Is(e.Err, unix.EACCES):
		return fault.PermissionMissing
	case errors.Is(e.Err, unix.EEXIST):
		return fault.Busy
	case errors.Is(e.Err, unix.EDQUOT):
		return fault.KeyQuota
	default:
		return fault.Failed
	}
}
