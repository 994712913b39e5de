// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// trustedType is the kernel's type for keys that a trust source seals
// (Documentation/security/keys/trusted-encrypted.rst).
const trustedType = "trusted"

// maxSealed limits the text of a blob as it is read back, in bytes: twice the kernel's
// MAX_BLOB_SIZE of 512.
const maxSealed = 2 * 512

// WithTrustedKey has the kernel make ("new N") or open ("load HEX") a trusted key in the
// calling thread's keyring, calls fn, and removes the key, as [Ring.WithLogonKey] does.
// sealed reads the blob back, in hexadecimal digits. The key itself is never seen outside
// the kernel.
//
// The error is an [*Error], or what fn returned.
func (Ring) WithTrustedKey(description, command string, fn func(sealed func() ([]byte, error)) error) (err error) {
	fail := func(op string, err error) error {
		return &Error{Op: op, Type: trustedType, Description: description, Err: err}
	}
	if err := check(description, []byte(command)); err != nil {
		return fail("add", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	// Adding a key that exists is an update, which each trust source refuses in its own
	// way.
	switch _, err := unix.KeyctlSearch(unix.KEY_SPEC_THREAD_KEYRING, trustedType, description, 0); {
	case err == nil:
		return fail("add", unix.EEXIST)
	case !errors.Is(err, unix.ENOKEY):
		return fail("search", err)
	}
	id, err := unix.AddKey(trustedType, description, []byte(command), unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fail("add", err)
	}
	defer func() {
		if e := remove(id); e != nil {
			err = errors.Join(err, fail("remove", e))
		}
	}()
	return fn(func() ([]byte, error) {
		text := make([]byte, maxSealed)
		n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, text, 0)
		if err == nil && n > len(text) {
			err = unix.EMSGSIZE
		}
		if err != nil {
			return nil, fail("read", err)
		}
		return text[:n], nil
	})
}
