// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

// Error means that an operation on a device failed.
type Error struct {
	Op   string // as in "open", "read 512 bytes at 1024 of"
	Path string
	Code fault.Code
	// Err is the cause, with its errno.
	Err error
}

func (e *Error) Error() string { return e.Op + " " + e.Path + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// FaultCode implements fault.Coder.
func (e *Error) FaultCode() fault.Code { return e.Code }

// Reasons that an Error may wrap, besides an errno.
var (
	ErrNotBlock = errors.New("neither a block device nor a regular file")
	ErrReadOnly = errors.New("device is read-only")
	ErrEmpty    = errors.New("device has no size")
	ErrRange    = errors.New("range lies outside of the device")
)

// BusyError means that a device could not be opened exclusively. errors.Is finds EBUSY in
// it.
type BusyError struct {
	Path  string
	Users Users
	Err   error
}

func (e *BusyError) Error() string {
	if s := e.Users.String(); s != "" {
		return fmt.Sprintf("open %s: in use: %s", e.Path, s)
	}
	return fmt.Sprintf("open %s: %v: in use by something that neither the list of mounts nor sysfs names", e.Path, e.Err)
}

func (e *BusyError) Unwrap() error { return e.Err }

// FaultCode implements fault.Coder.
func (e *BusyError) FaultCode() fault.Code { return fault.DeviceInUse }

// NotFoundError means that no device matches a specification. errors.Is
// finds fs.ErrNotExist in it.
type NotFoundError struct {
	Spec string
	// Unreadable names the devices that could not be read, each with the reason; the
	// wanted one may be among them.
	Unreadable []string
	// Elsewhere lists the devices that have the property but are attached to another
	// controller, each with details of where.
	Elsewhere []string
}

func (e *NotFoundError) Error() string {
	s := fmt.Sprintf("device %q not found", e.Spec)
	if len(e.Elsewhere) > 0 {
		s += ", and elsewhere there is " + strings.Join(e.Elsewhere, ", ")
	}
	if len(e.Unreadable) > 0 {
		s += " (could not look at " + strings.Join(e.Unreadable, "; ") + ")"
	}
	return s
}

// Is makes errors.Is(err, fs.ErrNotExist) true.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// FaultCode implements fault.Coder.
func (e *NotFoundError) FaultCode() fault.Code { return fault.DeviceMissing }

// AmbiguousError means that several devices match a specification, so none is chosen.
type AmbiguousError struct {
	Spec       string
	Candidates []string // their paths, sorted
	// Details distinguish the candidates: "PARTUUID=…, 7475 MiB, on eMMC
	// 30b60000.mmc/mmc1:0001".
	Details []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("device %q is ambiguous: %s all match it", e.Spec, strings.Join(withDetails(e.Candidates, e.Details), ", "))
}

func withDetails(paths, details []string) []string {
	list := slices.Clone(paths)
	for i := range list {
		if i < len(details) && details[i] != "" {
			list[i] += " (" + details[i] + ")"
		}
	}
	return list
}

// FaultCode implements fault.Coder.
func (e *AmbiguousError) FaultCode() fault.Code { return fault.DeviceAmbiguous }

// SpecError means that a device specification cannot be understood.
type SpecError struct{ Spec, Reason string }

func (e *SpecError) Error() string { return fmt.Sprintf("device %q: %s", e.Spec, e.Reason) }

// FaultCode implements fault.Coder.
func (e *SpecError) FaultCode() fault.Code { return fault.ConfigInvalid }

// openError explains the errno of a failed open.
func openError(path string, err error) error {
	err = bareErrno(err)
	code := fault.Failed
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV),
		errors.Is(err, unix.ENOMEDIUM), errors.Is(err, unix.ENOTDIR):
		code = fault.DeviceMissing
	case errors.Is(err, unix.EROFS):
		code = fault.DeviceReadOnly
	case errors.Is(err, fs.ErrPermission):
		code = fault.PermissionMissing
	case errors.Is(err, unix.ELOOP):
		code = fault.FileUnsafe
	case errors.Is(err, unix.EIO):
		code = fault.IOFailed
	}
	return &Error{Op: "open", Path: path, Code: code, Err: err}
}

// bareErrno unwraps the *fs.PathError: our own errors have the operation and path.
func bareErrno(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
