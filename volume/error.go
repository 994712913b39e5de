// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/internal/fault"
)

// Error says which operation on which volume failed. Its code is that of the
// error it wraps.
type Error struct {
	Op     string
	Volume string
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Volume, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// failed wraps err for volume s, once. What ended because ctx was cancelled is
// an interruption, whatever error it came out as.
func failed(ctx context.Context, op string, s Spec, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		err = fault.New(fault.Interrupted, "stopped on request; the next run goes on from here", err)
	}
	return &Error{Op: op, Volume: s.Name, Err: err}
}

// refuse is an error of this package's own making.
func refuse(code fault.Code, format string, args ...any) error {
	return fault.New(code, fmt.Sprintf(format, args...), nil)
}
