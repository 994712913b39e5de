// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"encoding/hex"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"imxcrypt/caam/caamtest"
)

// TrustSource seals trusted keys: a chip of caamtest, or none.
type TrustSource interface {
	NewTrusted(n int) (key, blob []byte, err error)
	LoadTrusted(blob []byte) ([]byte, error)
	NewProtected(n int, wrap byte) (payload, blob []byte, err error)
}

// Ring holds the keyrings of all threads.
type Ring struct {
	// Trust is the kernel's trust source; nil for a kernel that has none.
	Trust TrustSource
	// NoProtected makes the kernel one before 6.19, which ignores the options of
	// protected keys.
	NoProtected bool

	// ProtectedMade counts the protected keys that were made.
	ProtectedMade int

	// Err is the error of adding a key.
	Err error

	mu   sync.Mutex
	keys map[int]map[string][]byte // by type and description
}

// WithLogonKey gives the calling thread a key while use runs.
func (r *Ring) WithLogonKey(description string, payload []byte, use func() error) error {
	return r.with("logon "+description, payload, use)
}

// WithTrustedKey makes or opens a trusted key for the calling thread while use runs.
func (r *Ring) WithTrustedKey(description, command string, use func(sealed func() ([]byte, error)) error) error {
	if r.Trust == nil {
		return unix.ENODEV
	}
	verb, rest, _ := strings.Cut(command, " ")
	rest, wrap := r.protected(rest)
	var payload, blob []byte
	var err error
	switch verb {
	case "new":
		var n int
		if _, err := fmt.Sscanf(rest, "%d", &n); err != nil {
			return unix.EINVAL
		}
		if wrap != 0 {
			r.mu.Lock()
			r.ProtectedMade++
			r.mu.Unlock()
			payload, blob, err = r.Trust.NewProtected(n, wrap)
		} else {
			payload, blob, err = r.Trust.NewTrusted(n)
		}
	case "load":
		if blob, err = hex.DecodeString(rest); err != nil {
			return unix.EINVAL
		}
		if wrap != 0 {
			payload = caamtest.ProtectedPayload(blob, wrap)
		} else {
			payload, err = r.Trust.LoadTrusted(blob)
		}
	default:
		return unix.EINVAL
	}
	if err != nil {
		return err
	}
	return r.with("trusted "+description, payload, func() error {
		return use(func() ([]byte, error) { return []byte(hex.EncodeToString(blob)), nil })
	})
}

// protected cuts the options of a protected key off a command. Unknown ones are ignored,
// as by mainline's CAAM: the wrap is 0 then, and the key an ordinary one.
func (r *Ring) protected(command string) (string, byte) {
	rest, options, found := strings.Cut(command, " pk key_enc_algo=")
	if !found || r.NoProtected || len(options) != 1 {
		return rest, 0
	}
	return rest, options[0] - '0'
}

func (r *Ring) with(name string, payload []byte, use func() error) error {
	if r.Err != nil {
		return r.Err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	r.mu.Lock()
	if r.keys == nil {
		r.keys = map[int]map[string][]byte{}
	}
	if r.keys[thread] == nil {
		r.keys[thread] = map[string][]byte{}
	}
	r.keys[thread][name] = append([]byte{}, payload...)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.keys[thread], name)
		r.mu.Unlock()
	}()
	return use()
}

// Find returns the payload of a key that the given thread sees, or ENOKEY.
func (r *Ring) Find(thread int, keyType, description string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	payload, ok := r.keys[thread][keyType+" "+description]
	if !ok {
		return nil, unix.ENOKEY
	}
	return append([]byte{}, payload...), nil
}

// Left counts the keys that are in any keyring now.
func (r *Ring) Left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, keys := range r.keys {
		n += len(keys)
	}
	return n
}
