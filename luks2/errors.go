// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"fmt"
	"strings"

	"imxcrypt/internal/fault"
)

// ErrNotLUKS is returned if neither copy shows a LUKS magic number.
var ErrNotLUKS error = notLUKS{}

type notLUKS struct{}

func (notLUKS) Error() string         { return "no LUKS2 header" }
func (notLUKS) FaultCode() fault.Code { return fault.NotProvisioned }

// InvalidError says which rule of the format a header breaks.
type InvalidError struct {
	Rule Rule
	// Detail names the object and the value, which is quoted if it comes from the disk.
	Detail string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("LUKS2 header invalid (%s): %s", e.Rule, e.Detail)
}

// FaultCode distinguishes a broken checksum (damage) from broken content.
func (e *InvalidError) FaultCode() fault.Code {
	if e.Rule.damage() {
		return fault.HeaderDamaged
	}
	return fault.HeaderInvalid
}

// invalid makes an InvalidError; nothing else does.
func invalid(rule Rule, format string, args ...any) error {
	return &InvalidError{Rule: rule, Detail: fmt.Sprintf(format, args...)}
}

// DamagedError says that there was a LUKS2 header and that neither copy can be used any
// more.
type DamagedError struct {
	Primary, Secondary error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("both copies of the LUKS2 header are damaged: first: %v; second: %v", e.Primary, e.Secondary)
}

// Unwrap returns the reasons for both copies.
func (e *DamagedError) Unwrap() []error { return []error{e.Primary, e.Secondary} }

// FaultCode makes DamagedError a fault.Coder.
func (e *DamagedError) FaultCode() fault.Code { return fault.HeaderDamaged }

// VersionError is returned for a LUKS header of another version: 1, or a future one.
type VersionError struct{ Version uint16 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("LUKS header of version %d, only version 2 is supported", e.Version)
}

// FaultCode makes VersionError a fault.Coder.
func (e *VersionError) FaultCode() fault.Code { return fault.HeaderVersion }

// RequirementError names the mandatory requirements of a header that its reader does not
// know, and which therefore forbid using it.
type RequirementError struct{ Names []string }

func (e *RequirementError) Error() string {
	quoted := make([]string, len(e.Names))
	for i, n := range e.Names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	return "LUKS2 header has unknown mandatory requirements: " + strings.Join(quoted, ", ")
}

// FaultCode makes RequirementError a fault.Coder.
func (e *RequirementError) FaultCode() fault.Code { return fault.HeaderRequirement }

// ConflictError says that the header on the device is no longer the one that was read:
// something else wrote it in between. Nothing has been written.
type ConflictError struct {
	WantUUID, HaveUUID   string
	WantSeqID, HaveSeqID uint64
}

func (e *ConflictError) Error() string {
	if e.WantUUID != e.HaveUUID {
		return fmt.Sprintf("LUKS2 header on the device has UUID %q, expected %q", e.HaveUUID, e.WantUUID)
	}
	return fmt.Sprintf("LUKS2 header changed since it was read: sequence number %d, expected %d", e.HaveSeqID, e.WantSeqID)
}

// FaultCode makes ConflictError a fault.Coder.
func (e *ConflictError) FaultCode() fault.Code { return fault.HeaderMismatch }

// ForeignError says that something else is where the first copy should be, usually a
// filesystem that was made over the container. Repairing the copy would destroy that.
// Nothing has been written.
type ForeignError struct{}

func (e *ForeignError) Error() string {
	return "the first copy of the LUKS2 header was overwritten by something else, and was left as it is; the second copy is good"
}

// FaultCode makes ForeignError a fault.Coder.
func (e *ForeignError) FaultCode() fault.Code { return fault.HeaderCopyDamaged }

// ExistsError says that Format found a LUKS header, or the remains of one. Nothing has
// been written.
type ExistsError struct {
	// Err is the error from reading it; nil for a usable header.
	Err error
}

func (e *ExistsError) Error() string {
	if e.Err == nil {
		return "there is a LUKS2 header already"
	}
	return "there are remains of a LUKS header: " + e.Err.Error()
}

func (e *ExistsError) Unwrap() error { return e.Err }

// FaultCode makes ExistsError a fault.Coder.
func (e *ExistsError) FaultCode() fault.Code { return fault.NotEmpty }

// readError is an I/O error; errno stays visible through Unwrap.
type readError struct {
	off int64
	err error
}

func (e *readError) Error() string {
	return fmt.Sprintf("read LUKS2 header at byte %d: %v", e.off, e.err)
}
func (e *readError) Unwrap() error         { return e.err }
func (e *readError) FaultCode() fault.Code { return fault.IOFailed }

// writeError is an I/O error while writing. The device then holds the old or the new
// header.
type writeError struct {
	what string
	err  error
}

func (e *writeError) Error() string         { return e.what + ": " + e.err.Error() }
func (e *writeError) Unwrap() error         { return e.err }
func (e *writeError) FaultCode() fault.Code { return fault.IOFailed }
