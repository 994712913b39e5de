// SPDX-License-Identifier: Apache-2.0

package loopdev_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/loopdev"
)

// What needs a kernel's loop devices is tested with the recovery of an image,
// in test/scenario.
func TestWhatIsNoImageIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := loopdev.Attach("/dev/null"); fault.CodeOf(err) != fault.DeviceUnsuitable {
		t.Errorf("a character device: %v", err)
	}
	_, err := loopdev.Attach(filepath.Join(t.TempDir(), "none"))
	if fault.CodeOf(err) != fault.DeviceMissing || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
