// SPDX-License-Identifier: Apache-2.0

package fault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

func TestCodeOf(t *testing.T) {
	t.Parallel()
	busy := fault.New(fault.Busy, "somebody has it open", nil)
	for want, err := range map[fault.Code]error{
		"":                      nil,
		fault.Failed:            errors.New("anything"),
		fault.Busy:              fmt.Errorf("while locking: %w", errors.Join(busy, errors.New("something else"))),
		fault.DeviceInUse:       fault.New(fault.DeviceInUse, "not closed", busy),
		fault.PermissionMissing: fmt.Errorf("protect the process: %w", &fs.PathError{Op: "write", Path: "/proc/self/oom_score_adj", Err: unix.EACCES}),
		fault.IOFailed:          fault.New(fault.IOFailed, "read the header", unix.EPERM),
	} {
		if got := fault.CodeOf(err); got != want {
			t.Errorf("%v is %q, expected %q", err, got, want)
		}
	}
	if busy.Error() != "somebody has it open" || fault.New(fault.Busy, "not closed", unix.EBUSY).Error() != "not closed: device or resource busy" {
		t.Error("the message is not what, then why")
	}
}
