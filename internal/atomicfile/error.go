// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"errors"
	"io/fs"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

// Error is a file operation that failed. errors.Is finds the errno, and the
// reasons below.
type Error struct {
	Op   string // "create", "replace", "read", "remove", "create folder"
	Path string
	Code fault.Code
	Err  error
}

func (e *Error) Error() string { return e.Op + " " + e.Path + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// FaultCode implements fault.Coder.
func (e *Error) FaultCode() fault.Code { return e.Code }

// Why a file is not trusted.
var (
	ErrNotRegular = errors.New("not a regular file")
	ErrLink       = errors.New("is a symbolic link")
	ErrTooLarge   = errors.New("too large")
	ErrOwner      = errors.New("not owned by root")
	ErrMode       = errors.New("permissions too wide")
	// ErrWriter means that another process is writing the same file.
	ErrWriter = errors.New("being written by another process")
)

func failed(op, path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &Error{Op: op, Path: path, Code: codeOf(err), Err: err}
}

func codeOf(err error) fault.Code {
	for _, unsafe := range []error{ErrNotRegular, ErrLink, ErrTooLarge, ErrOwner, ErrMode, unix.ELOOP} {
		if errors.Is(err, unsafe) {
			return fault.FileUnsafe
		}
	}
	switch {
	case errors.Is(err, ErrWriter):
		return fault.Busy
	case errors.Is(err, fs.ErrExist):
		return fault.FileExists
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fault.StorageFull
	case errors.Is(err, fs.ErrPermission):
		return fault.PermissionMissing
	case errors.Is(err, unix.EIO):
		return fault.IOFailed
	}
	return fault.Failed
}
