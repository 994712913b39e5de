// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// Result is what an operation did.
type Result struct {
	Volume     string `json:"volume"`
	Device     string `json:"device,omitempty"`
	UUID       string `json:"uuid,omitempty"`
	Generation int    `json:"generation,omitempty"`
	// SecurityState is the chip's state when the key was made.
	SecurityState string `json:"security_state,omitempty"`
	// RecoveryFingerprint is the fingerprint of the key's recovery copy, to be noted;
	// empty if there is no copy.
	RecoveryFingerprint string `json:"recovery_fingerprint,omitempty"`
	// Mapping is the device that exists now, /dev/mapper/…; empty if none does.
	Mapping string `json:"mapping,omitempty"`
	// Mounted is the mount point in use now.
	Mounted string `json:"mounted,omitempty"`
	// Already is true when there was nothing left to do.
	Already bool `json:"already"`
	// Rotating reports that the volume was opened, or given its key again, half-way
	// through a rotation, which continues only on request.
	Rotating bool `json:"rotating,omitempty"`
	// Kept is the file that keeps what was replaced in a header.
	Kept string `json:"kept,omitempty"`
	// Steps are what was done, or what a dry run would do, in order.
	Steps []Step `json:"steps,omitempty"`
	// Warnings are for a person.
	Warnings []string `json:"warnings,omitempty"`

	// opened reports that this operation made the volume's mapping.
	opened bool
}

// Step is one thing done.
type Step struct {
	What string `json:"what"`
	// Took is zero in a dry run.
	Took Duration `json:"took_ms,omitempty"`
}

// Duration is a time.Duration that is milliseconds in JSON.
type Duration time.Duration

// MarshalJSON writes a number of milliseconds.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(float64(d) / float64(time.Millisecond))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (d *Duration) UnmarshalJSON(text []byte) error {
	var ms float64
	err := json.Unmarshal(text, &ms)
	*d = Duration(ms * float64(time.Millisecond))
	return err
}

// runLog records the steps of one operation.
type runLog struct {
	result   Result
	now      func() time.Time
	last     time.Time
	progress func(Step)
	// dry reports that the steps are those that would be done.
	dry bool
}

func (m *Manager) begin(s spec.Volume, progress func(Step)) *runLog {
	return &runLog{result: Result{Volume: s.Name}, now: m.sys.Now, last: m.sys.Now(), progress: progress}
}

// did records a step that has just been finished.
func (j *runLog) did(what string) {
	t := j.now()
	j.add(Step{What: what, Took: Duration(t.Sub(j.last))})
	j.last = t
}

// would records a step of a dry run. The steps taken to find it out are dropped.
func (j *runLog) would(what string) {
	if !j.dry {
		j.dry, j.result.Steps = true, nil
	}
	j.add(Step{What: what})
}

func (j *runLog) add(s Step) {
	j.result.Steps = append(j.result.Steps, s)
	if j.progress != nil {
		j.progress(s)
	}
}

func (j *runLog) identify(h *header.Header, device string) {
	h = h.KeySide()
	j.result.Device, j.result.UUID = device, h.LUKS.UUID
	j.result.Generation, j.result.SecurityState = h.Token.Generation, string(h.Token.State)
	j.result.RecoveryFingerprint = h.Fingerprint()
}

func (j *runLog) warn(text string) { j.result.Warnings = append(j.result.Warnings, text) }

// Error says which operation on which volume failed. Its code is the wrapped error's.
type Error struct {
	Op     string
	Volume string
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Volume, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Failed wraps err for volume s, once. An error caused by cancelling ctx becomes an
// interruption; one that merely happened at the same moment stays what it is.
func Failed(ctx context.Context, op string, s spec.Volume, err error) error {
	if err == nil {
		return nil
	}
	if interrupted(ctx, err) {
		err = fault.New(fault.Interrupted, "stopped on request; the next run continues from here", err)
	}
	return &Error{Op: op, Volume: s.Name, Err: err}
}

// interrupted reports whether err comes from cancelling ctx.
func interrupted(ctx context.Context, err error) bool {
	return errors.Is(ctx.Err(), context.Canceled) && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)) ||
		errors.Is(err, reencrypt.ErrPaused) || fault.Is(err, fault.Interrupted))
}
