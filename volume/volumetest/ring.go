// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Ring is the keyrings of all threads.
type Ring struct {
	mu   sync.Mutex
	keys map[int]map[string][]byte
}

// WithLogonKey gives the calling thread a key while use runs.
func (r *Ring) WithLogonKey(description string, payload []byte, use func() error) error {
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
	r.keys[thread][description] = append([]byte{}, payload...)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.keys[thread], description)
		r.mu.Unlock()
	}()
	return use()
}

func (r *Ring) find(thread int, keyType, description string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	payload, ok := r.keys[thread][description]
	if !ok || keyType != "logon" {
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
