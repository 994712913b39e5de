// SPDX-License-Identifier: Apache-2.0

//go:build vm

package keyring_test

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/keyring"
)

// inVM reports whether the kernel is the test VM's and has everything that the tests
// need.
const inVM = true

// No keyrings have been made for a process that PID 1 started, as in an initramfs.
func TestKeysWorkWithoutAnySession(t *testing.T) {
	onOwnThread(t, func() {
		err := keyring.Ring{}.WithLogonKey("test:no-session", payload, func() error {
			_, err := lookup("test:no-session")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// This changes a limit of the whole machine, so it belongs in the VM, and does not run in
// parallel.
func TestUsedUpQuotaIsNamed(t *testing.T) {
	const limit = "/proc/sys/kernel/keys/root_maxbytes"
	before, err := os.ReadFile(limit)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(limit, []byte("1\n"), 0); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(limit, before, 0); err != nil {
			t.Error(err)
		}
	}()
	onOwnThread(t, func() {
		err := keyring.Ring{}.WithLogonKey("test:quota", payload, func() error { return nil })
		wantErrno(t, "with a quota of one byte", err, unix.EDQUOT)
		if fault.CodeOf(err) != fault.KeyQuota || !strings.Contains(err.Error(), "quota") {
			t.Errorf("%v, code %s", err, fault.CodeOf(err))
		}
	})
}
