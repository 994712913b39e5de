// SPDX-License-Identifier: Apache-2.0

package keyring_test

import (
	"testing"

	"golang.org/x/sys/unix"
)

// What the design of this package relies on, as the kernel does it: none of this tests
// our code.

func add(t *testing.T, description, payload string, ring int) int {
	t.Helper()
	id, err := unix.AddKey("logon", description, []byte(payload), ring)
	if err != nil {
		t.Errorf("add %q: %v", description, err)
	}
	return id
}

func unlink(t *testing.T, id, ring int) {
	t.Helper()
	if _, err := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, ring, 0, 0); err != nil {
		t.Errorf("unlink %#x: %v", id, err)
	}
}

func TestPremiseThreadKeyringIsOfOneThread(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	const name = "premise:one-thread"
	onOwnThread(t, func() {
		id := add(t, name, "0123456789abcdef", unix.KEY_SPEC_THREAD_KEYRING)
		defer unlink(t, id, unix.KEY_SPEC_THREAD_KEYRING)
		if found, err := lookup(name); err != nil || found != id {
			t.Errorf("on its own thread: %#x, %v", found, err)
		}
		onAnotherThread(func() {
			_, err := lookup(name)
			wantErrno(t, "looked up on another thread", err, unix.ENOKEY)
			_, err = unix.KeyctlSearch(unix.KEY_SPEC_THREAD_KEYRING, "logon", name, 0)
			wantErrno(t, "searched on another thread", err, unix.ENOKEY)
		})
	})
}

func TestPremiseSessionKeyringMadeByAnotherThreadIsNotOurs(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	const name = "premise:session"
	onOwnThread(t, func() {
		// Without a name; x/sys would give it an empty one.
		if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil {
			t.Errorf("join a new session keyring: %v", err)
			return
		}
		id := add(t, name, "0123456789abcdef", unix.KEY_SPEC_SESSION_KEYRING)
		defer unlink(t, id, unix.KEY_SPEC_SESSION_KEYRING)
		if found, err := lookup(name); err != nil || found != id {
			t.Errorf("on the thread that made it: %#x, %v", found, err)
		}
		onAnotherThread(func() {
			_, err := lookup(name)
			wantErrno(t, "on another thread", err, unix.ENOKEY)
		})
	})
}

// Whether the user's keyring is searched depends on what made the session: a service
// manager's session has no link to it, and without any session it is searched.
func TestPremiseUserKeyringIsFoundThroughTheSessionOnly(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	const name = "premise:user"
	onOwnThread(t, func() {
		if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil {
			t.Errorf("join a new session keyring: %v", err)
			return
		}
		id := add(t, name, "0123456789abcdef", unix.KEY_SPEC_USER_KEYRING)
		defer unlink(t, id, unix.KEY_SPEC_USER_KEYRING)
		_, err := lookup(name)
		wantErrno(t, "in a session without the user's keyring", err, unix.ENOKEY)
		if _, err := unix.KeyctlInt(unix.KEYCTL_LINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_SESSION_KEYRING, 0, 0); err != nil {
			t.Errorf("link the user's keyring: %v", err)
		}
		if found, err := lookup(name); err != nil || found != id {
			t.Errorf("in a session with the user's keyring: %#x, %v", found, err)
		}
	})
}

func TestPremiseLogonKeyCannotBeRead(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	onOwnThread(t, func() {
		id := add(t, "premise:unreadable", "0123456789abcdef", unix.KEY_SPEC_THREAD_KEYRING)
		defer unlink(t, id, unix.KEY_SPEC_THREAD_KEYRING)
		_, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, make([]byte, 64), 0)
		wantErrno(t, "its owner reading it", err, unix.EOPNOTSUPP)
	})
}

func TestPremiseAddingTwiceUpdates(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	onOwnThread(t, func() {
		one := add(t, "premise:twice", "first", unix.KEY_SPEC_THREAD_KEYRING)
		defer unlink(t, one, unix.KEY_SPEC_THREAD_KEYRING)
		if two := add(t, "premise:twice", "second", unix.KEY_SPEC_THREAD_KEYRING); two != one {
			t.Errorf("a second key %#x beside %#x", two, one)
		}
	})
}

func TestPremiseLogonDescriptionNeedsAPrefix(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	onOwnThread(t, func() {
		for _, name := range []string{"noprefix", ":empty"} {
			_, err := unix.AddKey("logon", name, []byte("x"), unix.KEY_SPEC_THREAD_KEYRING)
			wantErrno(t, name, err, unix.EINVAL)
		}
		// The kernel accepts white space, but it would split a table's line.
		unlink(t, add(t, "premise:white space", "x", unix.KEY_SPEC_THREAD_KEYRING), unix.KEY_SPEC_THREAD_KEYRING)
	})
}

func TestPremisePayloadBounds(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	onOwnThread(t, func() {
		for _, n := range []int{0, 32768} {
			_, err := unix.AddKey("logon", "premise:size", make([]byte, n), unix.KEY_SPEC_THREAD_KEYRING)
			wantErrno(t, "a payload out of bounds", err, unix.EINVAL)
		}
	})
}

func TestPremiseRevokedKeyCanBeUnlinked(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	onOwnThread(t, func() {
		id := add(t, "premise:revoked", "0123456789abcdef", unix.KEY_SPEC_THREAD_KEYRING)
		if _, err := unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0); err != nil {
			t.Errorf("revoke: %v", err)
		}
		_, err := unix.KeyctlSearch(unix.KEY_SPEC_THREAD_KEYRING, "logon", "premise:revoked", 0)
		wantErrno(t, "used when revoked", err, unix.EKEYREVOKED)
		_, err = lookup("premise:revoked")
		wantErrno(t, "looked up when revoked", err, unix.ENOKEY)
		unlink(t, id, unix.KEY_SPEC_THREAD_KEYRING)
		_, err = lookup("premise:revoked")
		wantErrno(t, "looked up when unlinked", err, unix.ENOKEY)
	})
}
