// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Describe returns the description of a volume's key. A live table shows it, and so
// identifies which of the volume's keys it was loaded with.
func Describe(uuid string, generation int) string {
	return fmt.Sprintf("imxcrypt:%s:%d", uuid, generation)
}

// keyType is dm-crypt's own choice for keys that only the kernel may read.
const keyType = "logon"

// The kernel's limits, in bytes: KEY_MAX_DESC_SIZE of security/keys/keyctl.c counts the
// NUL; the limit of a payload is in user_preparse of user_defined.c.
const (
	maxDescription = 4096 - 1
	maxPayload     = 32767
)

// Ring is the calling thread's keyring.
type Ring struct{}

// WithLogonKey adds payload as a logon key, calls fn, and removes the key, even if fn
// panics or ends its goroutine. Meanwhile the goroutine is locked to its thread. Only
// that thread has the key, so fn must do its work itself and not in another goroutine. It
// may call WithLogonKey for a second key, with another description.
//
// The caller keeps payload; the kernel's copy is wiped before WithLogonKey returns or
// soon after. If the key cannot be removed, that is an error even if fn returned none.
//
// The error is an [*Error], or what fn returned.
func (Ring) WithLogonKey(description string, payload []byte, fn func() error) (err error) {
	if err := check(description, payload); err != nil {
		return &Error{Op: "add", Description: description, Err: err}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	// Adding an existing key would replace its payload, under the table that a caller up
	// the stack is about to load.
	switch _, err := unix.KeyctlSearch(unix.KEY_SPEC_THREAD_KEYRING, keyType, description, 0); {
	case err == nil:
		return &Error{Op: "add", Description: description, Err: unix.EEXIST}
	case !errors.Is(err, unix.ENOKEY):
		return &Error{Op: "search", Description: description, Err: err}
	}
	id, err := unix.AddKey(keyType, description, payload, unix.KEY_SPEC_THREAD_KEYRING)
	runtime.KeepAlive(payload)
	if err != nil {
		return &Error{Op: "add", Description: description, Err: err}
	}
	defer func() {
		if e := remove(id); e != nil {
			err = errors.Join(err, &Error{Op: "remove", Description: description, Err: e})
		}
	}()
	return fn()
}

// remove revokes the key and unlinks it. Revoking drops the payload even if the key has
// other references; dm-crypt has none, as it copied the payload when the table was
// loaded. Unlinking takes the key out of the ring before the call returns; invalidating
// would leave that to a worker.
func remove(id int) error {
	_, revoked := unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0)
	_, unlinked := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	if unlinked == nil {
		// Already gone from its only ring, and so destroyed.
		return nil
	}
	return errors.Join(unlinked, revoked)
}

// check refuses what the kernel would refuse or dm-crypt would misread: white space ends
// a word of a table, and a backslash is an escape character in it.
func check(description string, payload []byte) error {
	if len(payload) == 0 || len(payload) > maxPayload {
		return fmt.Errorf("key of %d bytes, want 1 to %d: %w", len(payload), maxPayload, unix.EINVAL)
	}
	if len(description) > maxDescription {
		return fmt.Errorf("description of %d bytes, at most %d: %w", len(description), maxDescription, unix.EINVAL)
	}
	colon := -1
	for i := range len(description) {
		switch c := description[i]; {
		case c <= ' ' || c > '~' || c == '\\':
			return fmt.Errorf("description with the character %q: %w", rune(c), unix.EINVAL)
		case c == ':' && colon < 0:
			colon = i
		}
	}
	if colon <= 0 || colon == len(description)-1 {
		return fmt.Errorf("description without a prefix, a colon and a name: %w", unix.EINVAL)
	}
	return nil
}
