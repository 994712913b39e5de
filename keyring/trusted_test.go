// SPDX-License-Identifier: Apache-2.0

package keyring_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/keyring"
)

// needTrustSource skips a test if the kernel has no trust source. On the boards of
// test/mainline, which run these tests, that is a failure.
func needTrustSource(t *testing.T) {
	t.Helper()
	err := keyring.Ring{}.WithTrustedKey("test:probe", "new 32", func(func() ([]byte, error)) error { return nil })
	switch {
	case err == nil:
	case os.Getenv("IMXCRYPT_TRUST_SOURCE") != "":
		t.Fatalf("the board has no trust source: %v", err)
	default:
		t.Skipf("NOT TESTED HERE, only in test/mainline: no trust source in this place: %v", err)
	}
}

// trusted looks a key up in the calling thread's keyring.
func trusted(description string) error {
	_, err := unix.KeyctlSearch(unix.KEY_SPEC_THREAD_KEYRING, "trusted", description, 0)
	return err
}

func TestATrustedKeyLivesAsLongAsTheCallback(t *testing.T) {
	t.Parallel()
	needTrustSource(t)
	onOwnThread(t, func() {
		name, command, blob := keyring.Describe("trusted", 1), "new 32", ""
		// The key is made, and then opened from the blob that was read back.
		for range 2 {
			err := keyring.Ring{}.WithTrustedKey(name, command, func(sealed func() ([]byte, error)) error {
				if err := trusted(name); err != nil {
					t.Errorf("%.4s: during the callback: %v", command, err)
				}
				onAnotherThread(func() { wantErrno(t, "on another thread", trusted(name), unix.ENOKEY) })
				text, err := sealed()
				if _, odd := hex.DecodeString(string(text)); odd != nil || blob != "" && string(text) != blob {
					t.Errorf("%.4s: read back as %q, %v", command, text, odd)
				}
				blob = string(text)
				return err
			})
			if err != nil {
				t.Errorf("%.4s: %v", command, err)
			}
			wantErrno(t, "afterwards", trusted(name), unix.ENOKEY)
			command = "load " + blob
		}
	})
}

func TestATrustedKeyGoesOnEveryWayOut(t *testing.T) {
	t.Parallel()
	needTrustSource(t)
	sentinel := errors.New("the table did not load")
	for name, fn := range map[string]func(func() ([]byte, error)) error{
		"test:trusted-error": func(func() ([]byte, error)) error { return sentinel },
		"test:trusted-panic": func(func() ([]byte, error)) error { panic(sentinel) },
	} {
		onOwnThread(t, func() {
			err := func() (err error) {
				defer func() {
					if r := recover(); r != nil {
						err = r.(error)
					}
				}()
				return keyring.Ring{}.WithTrustedKey(name, "new 32", fn)
			}()
			if err != sentinel {
				t.Errorf("%s: %v", name, err)
			}
			wantErrno(t, name, trusted(name), unix.ENOKEY)
		})
	}
}

func TestATrustedKeyInUseIsNotReplaced(t *testing.T) {
	t.Parallel()
	needTrustSource(t)
	onOwnThread(t, func() {
		const name = "test:trusted-same"
		ring := keyring.Ring{}
		err := ring.WithTrustedKey(name, "new 32", func(func() ([]byte, error)) error {
			err := ring.WithTrustedKey(name, "new 32", func(func() ([]byte, error)) error {
				t.Error("the callback ran")
				return nil
			})
			wantErrno(t, "the same name again", err, unix.EEXIST)
			if fault.CodeOf(err) != fault.Busy || !strings.Contains(err.Error(), `"test:trusted-same": add trusted key: the thread has one of that name already`) {
				t.Errorf("%v, code %s", err, fault.CodeOf(err))
			}
			return trusted(name)
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// A command that no trust source knows, and a blob that none has sealed.
func TestATrustedKeyThatIsRefused(t *testing.T) {
	t.Parallel()
	needTrustSource(t)
	onOwnThread(t, func() {
		for _, command := range []string{"probe", "load 00", "new 31", "load " + strings.Repeat("5a", 80)} {
			err := keyring.Ring{}.WithTrustedKey("test:trusted-refused", command, func(func() ([]byte, error)) error {
				t.Errorf("%s: the callback ran", command)
				return nil
			})
			if e := (*keyring.Error)(nil); !errors.As(err, &e) || e.Op != "add" || e.Type != "trusted" || strings.Contains(err.Error(), "5a5a") {
				t.Errorf("%s: %v", command, err)
			}
			wantErrno(t, command, trusted("test:trusted-refused"), unix.ENOKEY)
		}
	})
}

// The kernel never sees what dm-crypt would misread, whatever kernel it is.
func TestOddDescriptionsOfTrustedKeysAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "noprefix", ":empty", "prefix:", "white: space", `back:\slash`, "line:\nfeed", "x:" + strings.Repeat("y", 4096)} {
		err := keyring.Ring{}.WithTrustedKey(name, "new 32", func(func() ([]byte, error)) error {
			t.Errorf("%.20q: the callback ran", name)
			return nil
		})
		wantErrno(t, fmt.Sprintf("%.20q", name), err, unix.EINVAL)
	}
}

func TestAKernelWithoutTrustedKeysIsNamed(t *testing.T) {
	t.Parallel()
	err := &keyring.Error{Op: "add", Type: "trusted", Description: "imxcrypt:new", Err: unix.ENODEV}
	if fault.CodeOf(err) != fault.KeyringMissing || !strings.HasPrefix(err.Error(), `"imxcrypt:new": add trusted key: the kernel does not know keys of that type: `) {
		t.Errorf("%v, code %s", err, fault.CodeOf(err))
	}
}
