// SPDX-License-Identifier: Apache-2.0

// Package fault is the catalogue of what can go wrong: every error that a user may see
// carries one of its codes. A code is a stable identifier: programs read it in `status
// --json`, the command line turns it into an exit code and a hint, and the
// troubleshooting page has an entry for each.
package fault

import (
	"errors"
	"fmt"
	"io/fs"
)

// Code names one kind of failure, in words joined by hyphens.
type Code string

// Coder is an error that knows its code. The typed errors of the lower
// packages implement it.
type Coder interface {
	error
	FaultCode() Code
}

// Error adds a code and a sentence to an error that has no type of its own.
type Error struct {
	Code Code
	// What says what failed and on which object: lower case, no full stop.
	What string
	// Err is the cause; nil if What says everything.
	Err error
}

// New returns an error of the given code. err may be nil.
func New(code Code, what string, err error) *Error {
	return &Error{Code: code, What: what, Err: err}
}

// Newf is New without a cause, with a formatted sentence.
func Newf(code Code, format string, args ...any) *Error {
	return New(code, fmt.Sprintf(format, args...), nil)
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.What
	}
	return e.What + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// FaultCode makes Error a Coder.
func (e *Error) FaultCode() Code { return e.Code }

// CodeOf returns the code of the outermost coded error in err's tree, because a caller
// that wraps an error with its own code knows better what it means. Without any code it
// is [PermissionMissing] if the kernel refused permission, and otherwise [Failed]. It is
// empty for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var c Coder
	if errors.As(err, &c) {
		return c.FaultCode()
	}
	if errors.Is(err, fs.ErrPermission) {
		return PermissionMissing
	}
	return Failed
}

// Is reports whether code is err's outermost code.
func Is(err error, code Code) bool { return CodeOf(err) == code }
