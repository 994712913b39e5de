// SPDX-License-Identifier: Apache-2.0

package dmtest

import (
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
)

// Options configure a Kernel. Only Device is required.
type Options struct {
	// Device finds the device with a number. An errno from it is the kernel's:
	// unix.ENODEV for a device that does not exist, unix.EBUSY for one that is held
	// exclusively elsewhere.
	Device func(n dmcrypt.Number) (Backing, error)
	// Key finds a key for a thread (gettid), as the kernel does in that thread's
	// keyrings; the error is unix.ENOKEY if the thread has none. nil means that there are
	// no keys. The payload is copied.
	Key func(thread int, keyType, description string) ([]byte, error)
	// SetKey is what an algorithm's driver checks when it is given a key; an error makes
	// the load fail with EINVAL. nil means that tk requires a tagged object, and others a
	// length that they know.
	SetKey func(algorithm string, payload []byte) error
	// RedKey turns what was given to setkey into the AES key, for each request. An error
	// fails the request (CCM with a stale key: EBADMSG in the driver, EILSEQ for the
	// reader); another key produces noise (ECB). It is only for algorithms that wrap keys
	// (tk, paes).
	RedKey func(algorithm string, payload []byte) ([]byte, error)
	// NoCiphers are algorithms that this kernel does not have, or dm-crypt does not get;
	// nil means that it gets those that the fake has.
	NoCiphers func() []string
	// NoTargets are targets that this kernel does not have.
	NoTargets func() []string
	// Before is called before each step with the step's name (create, load, suspend,
	// resume, clear, remove, rename, uuid, node) and the mapping's. An error is the
	// step's result, and nothing is done.
	Before func(step, name string) error
	// Major is the major device number; 0 means 253.
	Major uint32
}

// Event is a uevent of a mapping, with the flags for udev.
type Event struct {
	Action, Name string
	Visibility   dmcrypt.Visibility
}

// Kernel is the fake. Its methods may be called from several goroutines.
type Kernel struct {
	o Options

	mu       sync.Mutex
	changed  *sync.Cond // a mapping was resumed, removed or has fewer requests in flight
	mappings map[string]*mapping
	nodes    map[string]uint32 // name in /dev/mapper → minor
	events   []Event
}

type mapping struct {
	name, uuid     string
	minor          uint32
	opens          int // files and mappings above
	live, inactive *table
	liveRO         bool
	inactiveRO     bool
	suspended      bool
	removing       bool // deferred
	gone           bool
	inFlight       int
}

// New returns a device-mapper without mappings.
func New(o Options) *Kernel {
	if o.Major == 0 {
		o.Major = 253
	}
	if o.SetKey == nil {
		o.SetKey = setKey
	}
	k := &Kernel{o: o, mappings: map[string]*mapping{}, nodes: map[string]uint32{}}
	k.changed = sync.NewCond(&k.mu)
	return k
}

func (k *Kernel) number(m *mapping) dmcrypt.Number {
	return dmcrypt.Number{Major: k.o.Major, Minor: m.minor}
}

// find looks up a mapping; the lock is held.
func (k *Kernel) find(op, name string) (*mapping, error) {
	if err := dmcrypt.ValidateName(name); err != nil {
		return nil, err
	}
	if m := k.mappings[name]; m != nil {
		return m, nil
	}
	return nil, &dmcrypt.Error{Op: op, Name: name, Kind: dmcrypt.ErrNotFound, Err: unix.ENXIO}
}

func (k *Kernel) byMinor(minor uint32) *mapping {
	for _, m := range k.mappings {
		if m.minor == minor {
			return m
		}
	}
	return nil
}

func (k *Kernel) before(op, step, name string) error {
	if k.o.Before == nil {
		return nil
	}
	if err := k.o.Before(step, name); err != nil {
		return &dmcrypt.Error{Op: op, Name: name, Err: err}
	}
	return nil
}

func (k *Kernel) event(action, name string, v dmcrypt.Visibility) {
	k.events = append(k.events, Event{action, name, v})
}

// Events returns the uevents so far, oldest first.
func (k *Kernel) Events() []Event {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.events)
}

func (k *Kernel) create(name, uuid string) error {
	const op = "create the device"
	if err := k.before(op, "create", name); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	exists := &dmcrypt.Error{Op: op, Name: name, Kind: dmcrypt.ErrExists, Err: unix.EBUSY}
	if other := k.mappings[name]; other != nil {
		exists.Detail = fmt.Sprintf("the name belongs to device %s with uuid %q", k.number(other), other.uuid)
		return exists
	}
	minor := uint32(0)
	for k.byMinor(minor) != nil {
		minor++
	}
	for _, other := range k.mappings {
		if uuid != "" && other.uuid == uuid {
			exists.Detail = fmt.Sprintf("uuid %q belongs to another mapping", uuid)
			return exists
		}
	}
	k.mappings[name] = &mapping{name: name, uuid: uuid, minor: minor}
	return nil
}
