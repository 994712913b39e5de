// SPDX-License-Identifier: Apache-2.0

package keyring_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// needKeyrings skips a test if the kernel, or a container around it, offers no keyrings.
// In the VM that is a failure.
func needKeyrings(t *testing.T) {
	t.Helper()
	_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true)
	switch {
	case err == nil:
	case inVM:
		t.Fatalf("the VM's kernel has no keyrings: %v", err)
	default:
		t.Skipf("NOT TESTED HERE, only in the VM: no keyrings in this place: %v", err)
	}
}

// lookup asks as dm-crypt does when it loads a table: for the calling thread, in its
// thread, process and session keyrings, without an upcall to user space. x/sys always
// passes request_key something for the upcall.
func lookup(description string) (int, error) {
	typ, err := unix.BytePtrFromString("logon")
	if err != nil {
		return 0, err
	}
	desc, err := unix.BytePtrFromString(description)
	if err != nil {
		return 0, err
	}
	id, _, errno := unix.Syscall6(unix.SYS_REQUEST_KEY, uintptr(unsafe.Pointer(typ)), uintptr(unsafe.Pointer(desc)), 0, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(id), nil
}

// onAnotherThread runs f on a thread that ends with it, whatever f did to the thread.
func onAnotherThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

// onOwnThread runs a test on a thread whose keyrings no other test has used, and discards
// the thread afterwards.
func onOwnThread(t *testing.T, f func()) {
	t.Helper()
	// A test may call FailNow only on its own goroutine, so f uses only t.Error.
	onAnotherThread(f)
}

// listed reports whether the kernel lists a key of that description to this process.
func listed(t *testing.T, description string) bool {
	t.Helper()
	keys, err := os.ReadFile("/proc/keys")
	if err != nil {
		t.Error(err)
		return false
	}
	for line := range strings.Lines(string(keys)) {
		// Revoked and dead keys wait here for their collector; flags R, D.
		if words := strings.Fields(line); len(words) > 1 && strings.Contains(line, description) && !strings.ContainsAny(words[1], "RD") {
			return true
		}
	}
	return false
}

func wantErrno(t *testing.T, what string, err error, want unix.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}
