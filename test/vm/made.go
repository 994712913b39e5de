// SPDX-License-Identifier: Apache-2.0

package vm

import "sync"

// made remembers what this process has had made on the host: the kernel and the
// base image, programs, modules. A machine is booted some hundred times in a run
// of the tests, and to ask compilers and scripts each time whether anything has
// changed costs more than the boot. Beside sharedGuests it is the one
// package-level state here, for the same reason.
var made struct {
	sync.Mutex
	things map[string]*thing
}

type thing struct {
	sync.Mutex
	done  bool
	value any
}

// makeOnce returns what the first successful call for the name made. Calls for
// the same name wait for each other, others do not.
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
