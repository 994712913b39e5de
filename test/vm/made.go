// SPDX-License-Identifier: Apache-2.0

package vm

import "sync"

// made remembers what this process has already had made on the host: the kernel and the
// base image, programs, modules. A test run boots some hundred machines, and asking
// compilers and scripts each time whether anything has changed costs more than the
// boot. Like sharedGuests and places, it is package-level state because it must outlive
// a test.
var made struct {
	sync.Mutex
	things map[string]*thing
}

type thing struct {
	sync.Mutex
	done  bool
	value any
}

// makeOnce returns the result of the first successful call for the name. Calls for the
// same name wait for each other; others do not.
func makeOnce[T any](name string, do func() (T, error)) (T, error) {
	made.Lock()
	if made.things == nil {
		made.things = map[string]*thing{}
	}
	th := made.things[name]
	if th == nil {
		th = &thing{}
		made.things[name] = th
	}
	made.Unlock()

	th.Lock()
	defer th.Unlock()
	if th.done {
		return th.value.(T), nil
	}
	value, err := do()
	if err == nil {
		th.done, th.value = true, value
	}
	return value, err
}
