// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"errors"
	"fmt"

	"imxcrypt/internal/fault"
)

// ErrPaused is returned at a zone boundary after [Engine.Pause] or when the context has
// ended; in that case the error also wraps the context's cause. Everything up to the
// position is durable and nothing is held.
var ErrPaused error = fault.New(fault.Interrupted, "rotation paused", nil)

// ErrNoRecord means that neither slot holds a record of this rotation. Since
// [Engine.Begin] returns only after both slots are written, this is damage if the header
// says that a rotation is under way.
var ErrNoRecord error = fault.New(fault.RotationDamaged, "no valid rotation record", nil)

// IOError is a failed read, write or flush. The rotation stops at the last
// durable position.
type IOError struct {
	Op   string // "read", "write" or "flush"
	View View
	// Offset is the first byte that failed: of the plaintext for Old and New,
	// of the device for Raw and Meta. It is 0 for a flush.
	Offset int64
	Err    error
}

func (e *IOError) Error() string {
	if e.Op == "flush" {
		return fmt.Sprintf("flush of the %s: %v", e.View, e.Err)
	}
	return fmt.Sprintf("%s at byte %d (sector %d) of the %s: %v", e.Op, e.Offset, e.Offset/SectorSize, e.View, e.Err)
}

func (e *IOError) Unwrap() error { return e.Err }

// FaultCode implements fault.Coder.
func (e *IOError) FaultCode() fault.Code { return fault.IOFailed }

// LayoutError says which part of a [Layout] or [Placement] is impossible.
type LayoutError struct {
	Field  string
	Reason string
}

func (e *LayoutError) Error() string {
	return fmt.Sprintf("rotation layout: %s %s", e.Field, e.Reason)
}

// FaultCode implements fault.Coder.
func (e *LayoutError) FaultCode() fault.Code { return fault.DeviceUnsuitable }

// MismatchError says that the record on the device was made for a different geometry than
// the caller's.
type MismatchError struct {
	Field          string
	Record, Layout int64
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("rotation record and header disagree about the %s: %d and %d", e.Field, e.Record, e.Layout)
}

// FaultCode implements fault.Coder.
func (e *MismatchError) FaultCode() fault.Code { return fault.HeaderMismatch }

// StartedError is returned by [Engine.Begin], which refuses to forget a rotation of this
// volume that has moved data and is not finished.
type StartedError struct {
	Record Record
}

func (e *StartedError) Error() string {
	return fmt.Sprintf("a rotation to generation %d is under way at byte %d of %d",
		e.Record.Generation, e.Record.Position, e.Record.DataSize)
}

// FaultCode implements fault.Coder.
func (e *StartedError) FaultCode() fault.Code { return fault.Interrupted }

// JournalError says that the journal does not match the digest in its record. A power cut
// cannot cause that, so the zone is left as it is.
type JournalError struct {
	Zone Zone
}

func (e *JournalError) Error() string {
	return fmt.Sprintf("the journal of the zone %v does not match its digest", e.Zone)
}

// FaultCode implements fault.Coder.
func (e *JournalError) FaultCode() fault.Code { return fault.RotationDamaged }

// UnsettledError means that it is unknown on which side Zone counts: a record could
// neither be made durable nor be shown to be absent, or an overwritten zone could not be
// put back. The zone stays held. [Engine.Recover], in this process or a later one,
// settles it once the storage answers again.
type UnsettledError struct {
	Zone Zone
	Err  error
}

func (e *UnsettledError) Error() string {
	return fmt.Sprintf("the zone %v is neither old nor new until the storage works again: %v", e.Zone, e.Err)
}

func (e *UnsettledError) Unwrap() error { return e.Err }

// FaultCode implements fault.Coder.
func (e *UnsettledError) FaultCode() fault.Code { return fault.IOFailed }

// errBusy is returned by Step, Run, Recover or Begin while another of them runs.
var errBusy error = fault.New(fault.Busy, "the rotation is already being worked on", nil)

// recordError says why the bytes of a slot are not a record.
type recordError string

func (e recordError) Error() string { return string(e) }

var errEmptySlot = errors.New("never written")

// errNewerRecord means that a record is whole but holds something this program does not
// know.
var errNewerRecord error = fault.New(fault.HeaderRequirement, "the record of the rotation is a newer program's", nil)
