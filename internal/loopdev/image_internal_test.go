// SPDX-License-Identifier: Apache-2.0

package loopdev

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// Any process that may read an image can lock it. That is reported, not waited for for
// ever.
func TestALockedImageIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	other, ours := open(), open()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if err := exclusively(ours, time.Millisecond); !fault.Is(err, fault.DeviceInUse) {
		t.Errorf("%v (code %s)", err, fault.CodeOf(err))
	}
	unlocked := make(chan error)
	go func() {
		time.Sleep(50 * time.Millisecond)
		unlocked <- unix.Flock(int(other.Fd()), unix.LOCK_UN)
	}()
	if err := exclusively(ours, time.Minute); err != nil {
		t.Error(err)
	}
	if err := <-unlocked; err != nil { // before the file is closed
		t.Error(err)
	}
}
