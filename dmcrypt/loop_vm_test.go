// SPDX-License-Identifier: Apache-2.0

//go:build vm

package dmcrypt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/dmcrypt/dmtest"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/devnum"
)

// loopDevice makes a block device of a file, in memory, for the duration of a test.
func loopDevice(t *testing.T, size int64, readOnly bool) (path string, n dmcrypt.Number) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("loop-control: %v", err)
	}
	defer unix.Close(control)
	number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Fatalf("a free loop device: %v", err)
	}
	path = fmt.Sprintf("/dev/loop%d", number)
	loop, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	config := unix.LoopConfig{Fd: uint32(file.Fd())}
	if readOnly {
		config.Info.Flags = unix.LO_FLAGS_READ_ONLY
	}
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	t.Cleanup(func() {
		if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if err := loop.Close(); err != nil {
			t.Error(err)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return path, devnum.Of(uint64(st.Rdev))
}

// open opens path bypassing the page cache.
func open(path string, write bool) (*blockdev.Device, error) {
	return blockdev.System{}.Open(path, blockdev.Flags{Write: write, Direct: true})
}

// withKey puts a logon key into the thread keyring of a locked thread.
func withKey(description string, payload []byte, f func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey("logon", description, payload, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fmt.Errorf("add_key: %w", err)
	}
	defer func() {
		_, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	}()
	f()
	return nil
}

func newMapper(t *testing.T, o dmcrypt.Options) *dmcrypt.Mapper {
	t.Helper()
	m, err := dmcrypt.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// absent is a number that no device of the VM has: a major for local use. It is not one
// of loop's, since the loop driver makes a device for any minor number that is asked for.
var absent = dmcrypt.Number{Major: 240, Minor: 7}

func fixture(o dmcrypt.Options) func(t *testing.T) dmtest.Fixture {
	return func(t *testing.T) dmtest.Fixture {
		path, n := loopDevice(t, 4<<20, false)
		raw, err := open(path, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := raw.Close(); err != nil {
				t.Error(err)
			}
		})
		return dmtest.Fixture{
			Mapper: newMapper(t, o), Device: n, Backing: raw, Absent: absent, WithKey: withKey,
			Mute: o.KernelLog != "",
			Open: func(path string, write bool) (dmtest.Handle, error) { return open(path, write) },
		}
	}
}
