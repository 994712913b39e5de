// SPDX-License-Identifier: Apache-2.0

package keyring_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/keyring"
)

var payload = []byte("0123456789abcdef0123456789abcdef")

func TestKeyLivesAsLongAsTheCallback(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	name := keyring.Describe("6c9d5a0e-0000-4000-8000-000000000001", 3)
	if name != "imxcrypt:6c9d5a0e-0000-4000-8000-000000000001:3" {
		t.Fatalf("described as %q", name)
	}
	onOwnThread(t, func() {
		mine := bytes.Clone(payload)
		ran := false
		err := keyring.Ring{}.WithLogonKey(name, mine, func() error {
			ran = true
			if _, err := lookup(name); err != nil {
				t.Errorf("during the callback: %v", err)
			}
			if !listed(t, name) {
				t.Error("during the callback: not in /proc/keys")
			}
			onAnotherThread(func() {
				_, err := lookup(name)
				wantErrno(t, "on another thread", err, unix.ENOKEY)
			})
			return nil
		})
		if err != nil || !ran {
			t.Errorf("ran %t, %v", ran, err)
		}
		_, err = lookup(name)
		wantErrno(t, "afterwards", err, unix.ENOKEY)
		if listed(t, name) {
			t.Error("afterwards: still in /proc/keys")
		}
		if !bytes.Equal(mine, payload) {
			t.Error("the payload, which is the caller's, was changed")
		}
	})
}

// The callback and the code around it share one thread, and the goroutine is free to move
// afterwards.
func TestCallbackRunsOnTheLockedThread(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	var inside, later int
	err := keyring.Ring{}.WithLogonKey("test:thread", payload, func() error {
		inside = unix.Gettid()
		for range 50 {
			runtime.Gosched()
		}
		later = unix.Gettid()
		return nil
	})
	if err != nil || inside != later {
		t.Errorf("thread %d, then %d; %v", inside, later, err)
	}
}

func TestKeyGoesOnEveryWayOut(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	sentinel := errors.New("the table did not load")
	for _, c := range []struct {
		name string
		fn   func() error
		want error
	}{
		{"test:return", func() error { return nil }, nil},
		{"test:error", func() error { return sentinel }, sentinel},
		{"test:panic", func() error { panic(sentinel) }, sentinel},
	} {
		onOwnThread(t, func() {
			err := func() (err error) {
				defer func() {
					if r := recover(); r != nil {
						err = r.(error)
					}
				}()
				return keyring.Ring{}.WithLogonKey(c.name, payload, c.fn)
			}()
			if err != c.want {
				t.Errorf("%s: %v", c.name, err)
			}
			_, err = lookup(c.name)
			wantErrno(t, c.name, err, unix.ENOKEY)
		})
	}
}

func TestKeyGoesWithTheGoroutine(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	var after error
	onOwnThread(t, func() {
		defer func() { _, after = lookup("test:goexit") }()
		_ = keyring.Ring{}.WithLogonKey("test:goexit", payload, func() error {
			runtime.Goexit()
			return nil
		})
	})
	wantErrno(t, "after Goexit", after, unix.ENOKEY)
}

func TestTwoKeysNested(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	onOwnThread(t, func() {
		ring := keyring.Ring{}
		err := ring.WithLogonKey("test:outer", payload, func() error {
			if err := ring.WithLogonKey("test:inner", payload, func() error {
				for _, name := range []string{"test:outer", "test:inner"} {
					if _, err := lookup(name); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
				return nil
			}); err != nil {
				return err
			}
			_, err := lookup("test:inner")
			wantErrno(t, "inner key", err, unix.ENOKEY)
			_, err = lookup("test:outer")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestKeyInUseIsNotReplaced(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	onOwnThread(t, func() {
		ring := keyring.Ring{}
		err := ring.WithLogonKey("test:same", payload, func() error {
			err := ring.WithLogonKey("test:same", []byte("another"), func() error {
				t.Error("the callback ran")
				return nil
			})
			wantErrno(t, "the same name again", err, unix.EEXIST)
			_, err = lookup("test:same")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// A key of the same name that someone has put into a keyring that dm-crypt also searches,
// or that a script has left there, is neither in the way nor taken.
func TestKeysOfOthersOfThatNameDoNotMatter(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	const name = "test:others"
	onOwnThread(t, func() {
		// Without a name; x/sys would give it an empty one.
		if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil {
			t.Errorf("join a new session keyring: %v", err)
			return
		}
		var others []int
		for _, where := range []int{unix.KEY_SPEC_PROCESS_KEYRING, unix.KEY_SPEC_SESSION_KEYRING} {
			id := add(t, name, "another key entirely", where)
			defer unlink(t, id, where)
			others = append(others, id)
		}
		err := keyring.Ring{}.WithLogonKey(name, payload, func() error {
			ours, err := unix.KeyctlSearch(unix.KEY_SPEC_THREAD_KEYRING, "logon", name, 0)
			if err != nil {
				return err
			}
			if found, err := lookup(name); err != nil || found != ours || slices.Contains(others, found) {
				t.Errorf("dm-crypt would find %#x, %v, and ours is %#x", found, err, ours)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if found, err := lookup(name); err != nil || !slices.Contains(others, found) {
			t.Errorf("theirs afterwards: %#x, %v", found, err)
		}
	})
}

// Someone who got hold of the key meanwhile ends up with nothing.
func TestKeyLinkedElsewhereIsDead(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	onOwnThread(t, func() {
		var id int
		err := keyring.Ring{}.WithLogonKey("test:linked", payload, func() error {
			var err error
			if id, err = lookup("test:linked"); err != nil {
				return err
			}
			_, err = unix.KeyctlInt(unix.KEYCTL_LINK, id, unix.KEY_SPEC_PROCESS_KEYRING, 0, 0)
			return err
		})
		if err != nil {
			t.Error(err)
			return
		}
		defer unlink(t, id, unix.KEY_SPEC_PROCESS_KEYRING)
		_, err = unix.KeyctlSearch(unix.KEY_SPEC_PROCESS_KEYRING, "logon", "test:linked", 0)
		wantErrno(t, "a link that stayed", err, unix.EKEYREVOKED)
	})
}

func TestGoroutinesDoNotMeet(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for n := range 20 {
				name := fmt.Sprintf("test:%d-%d", i, n)
				if err := (keyring.Ring{}).WithLogonKey(name, payload, func() error {
					_, err := lookup(name)
					return err
				}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	all.Wait()
}

func TestDescriptionsAndPayloadsAreChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, description string
		size              int
		ok                bool
	}{
		{"usual", "imxcrypt:u-u-i-d:1", 64, true},
		{"shortest", "a:b", 1, true},
		{"colons in the name", "a:b:c:", 1, true},
		{"longest payload", "a:b", 32767, true},
		{"longest description", "a:" + strings.Repeat("b", 4093), 1, true},
		{"empty", "", 1, false},
		{"no prefix", "volume", 1, false},
		{"empty prefix", ":volume", 1, false},
		{"empty name", "imxcrypt:", 1, false},
		{"blank", "imxcrypt:my volume", 1, false},
		{"tab", "imxcrypt:my\tvolume", 1, false},
		{"line feed", "imxcrypt:volume\n", 1, false},
		{"NUL", "imxcrypt:vol\x00ume", 1, false},
		{"backslash", "imxcrypt:vol\\ume", 1, false},
		{"no ASCII", "imxcrypt:völume", 1, false},
		{"too long", "a:" + strings.Repeat("b", 4094), 1, false},
		{"no payload", "a:b", 0, false},
		{"payload too long", "a:b", 32768, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.ok {
				needKeyrings(t)
			}
			ran := false
			err := keyring.Ring{}.WithLogonKey(c.description, make([]byte, c.size), func() error { ran = true; return nil })
			if ran != c.ok || c.ok != (err == nil) {
				t.Fatalf("ran %t, %v", ran, err)
			}
			if !c.ok {
				wantErrno(t, c.name, err, unix.EINVAL)
			}
		})
	}
}

func TestErrorsHaveTheirCode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		errno unix.Errno
		code  fault.Code
		says  string
	}{
		{unix.ENOSYS, fault.KeyringMissing, "CONFIG_KEYS"},
		{unix.ENODEV, fault.KeyringMissing, "type"},
		{unix.EPERM, fault.PermissionMissing, "logon"},
		{unix.EACCES, fault.PermissionMissing, "logon"},
		{unix.EDQUOT, fault.KeyQuota, "quota"},
		{unix.EEXIST, fault.Busy, "already"},
		{unix.ENOMEM, fault.Failed, "memory"},
	} {
		err := fmt.Errorf("open volume: %w", &keyring.Error{Op: "add", Description: "a:b", Err: c.errno})
		if fault.CodeOf(err) != c.code || !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: code %s", err, fault.CodeOf(err))
		}
	}
}
