// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"errors"
	"fmt"
	"strings"

	"imxcrypt/internal/fault"
)

// Kind classifies errors, for errors.Is(err, dmcrypt.ErrBusy).
type Kind string

// Error makes a Kind usable with errors.Is; it is also the text of an Error.
func (k Kind) Error() string { return string(k) }

// The kinds. An Error without one has only its errno.
const (
	// ErrBusy: the mapping is open (mounted, or held by another mapping).
	ErrBusy Kind = "the mapping is in use"
	// ErrExists: the name or the UUID already belongs to a mapping.
	ErrExists Kind = "a mapping of that name or uuid exists"
	// ErrNotFound: there is no mapping of that name.
	ErrNotFound Kind = "no such mapping"
	// ErrMismatch: the live mapping is not the wanted one.
	ErrMismatch Kind = "the live mapping is not the one that was wanted"
	// ErrNoDevice: the device under the mapping is missing.
	ErrNoDevice Kind = "the device under it is missing"
	// ErrDeviceInUse: another holder has the device under the mapping exclusively.
	ErrDeviceInUse Kind = "the device under it is in use"
	// ErrDeviceReadOnly: the device under the mapping cannot be written.
	ErrDeviceReadOnly Kind = "the device under it is read-only"
	// ErrDeviceTooSmall: the table extends beyond the end of the device.
	ErrDeviceTooSmall Kind = "the table is longer than the device"
	// ErrNoKey: the key is not in a keyring that this thread possesses.
	ErrNoKey Kind = "the key is not in this thread's keyring"
	// ErrKeySize: the cipher has no keys of this size.
	ErrKeySize Kind = "the key has a wrong size"
	// ErrKeyRefused: the cipher's driver does not take the key.
	ErrKeyRefused Kind = "the cipher refused the key: wrong size or not a key of this chip's"
	// ErrCipher: a cipher that would lose the data, or that is not supported.
	ErrCipher Kind = "the cipher is not allowed"
	// ErrNoCipher: the kernel does not have the cipher.
	ErrNoCipher Kind = "this kernel does not have the cipher"
	// ErrNoTarget: the kernel does not have the target (dm-crypt).
	ErrNoTarget Kind = "this kernel does not have the device-mapper target"
	// ErrNoOption: the kernel's dm-crypt does not know an option.
	ErrNoOption Kind = "this kernel's dm-crypt does not know the option"
	// ErrNoDeviceMapper: the kernel has no device-mapper at all.
	ErrNoDeviceMapper Kind = "this kernel has no device-mapper"
	// ErrPermission: not root.
	ErrPermission Kind = "not permitted"
	// ErrInvalid: a name or table that is never loaded.
	ErrInvalid Kind = "not valid"
	// ErrNode: /dev/mapper/NAME did not appear, or is something else.
	ErrNode Kind = "the device node"
)

// Error is a failed operation.
type Error struct {
	// Op is what was tried: "load a table".
	Op string
	// Name is the mapping's name; may be empty.
	Name string
	// Kind is empty if the error has no kind.
	Kind Kind
	// Detail adds to the kind: which cipher, which device.
	Detail string
	// Err is the cause, usually an errno.
	Err error
	// Opens is how often the mapping is open, for ErrBusy.
	Opens int
	// Differences are the differences between the live mapping and the wanted one, for
	// ErrMismatch.
	Differences []string
	// KernelLog is what the kernel logged during the operation; empty if it cannot
	// be read.
	KernelLog []string
}

// Error names the mapping, the reason, and the kernel's own words.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
		if e.Name != "" {
			fmt.Fprintf(&b, " of mapping %q", e.Name)
		}
		b.WriteString(": ")
	}
	parts := make([]string, 0, 4)
	if e.Kind != "" && e.Kind != ErrInvalid && e.Kind != ErrCipher && e.Kind != ErrKeySize && e.Kind != ErrNode {
		parts = append(parts, string(e.Kind))
	}
	if e.Detail != "" {
		parts = append(parts, e.Detail)
	}
	if len(e.Differences) > 0 {
		parts = append(parts, strings.Join(e.Differences, "; "))
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	b.WriteString(strings.Join(parts, ": "))
	if len(e.KernelLog) > 0 {
		fmt.Fprintf(&b, " (kernel: %s)", strings.Join(e.KernelLog, "; "))
	}
	return b.String()
}

// Unwrap returns the cause, so that errors.Is finds the errno.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the kind of the error.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k != "" && k == e.Kind
}

// FaultCode returns the stable identifier of the kind.
func (e *Error) FaultCode() fault.Code {
	switch e.Kind {
	case ErrBusy, ErrExists:
		return fault.Busy
	case ErrMismatch:
		return fault.MappingMismatch
	case ErrNoDevice:
		return fault.DeviceMissing
	case ErrDeviceInUse:
		return fault.DeviceInUse
	case ErrDeviceReadOnly:
		return fault.DeviceReadOnly
	case ErrDeviceTooSmall:
		return fault.DeviceUnsuitable
	case ErrNoKey:
		return fault.KeyNotInKeyring
	case ErrKeySize, ErrKeyRefused:
		return fault.KeyLengthMismatch
	case ErrCipher:
		return fault.CipherNotAllowed
	case ErrNoCipher:
		switch {
		case strings.Contains(e.Detail, "tk("):
			return fault.CipherMissing
		case strings.Contains(e.Detail, "paes"):
			return fault.ProtectedMissing
		}
		return fault.SoftCipherMissing
	case ErrNoTarget:
		return fault.DMCryptMissing
	case ErrNoDeviceMapper:
		return fault.DMMissing
	case ErrPermission:
		return fault.PermissionMissing
	case ErrInvalid, ErrNoOption:
		return fault.ConfigInvalid
	}
	return fault.Failed
}

// invalid wraps the error of a check in this package.
func invalid(err error) *Error {
	e := &Error{Kind: ErrInvalid, Err: err}
	var size *sizeError
	var cipher *cipherError
	switch {
	case errors.As(err, &size):
		e.Kind = ErrKeySize
	case errors.As(err, &cipher):
		e.Kind = ErrCipher
	}
	return e
}
