// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
)

// failure ends the benchmark from within a machine's method.
type failure struct{}

// host stands in for a test: it keeps the folders and what is to be cleaned up.
type host struct {
	failed bool
	last   []func()
}

func (h *host) Helper()      {}
func (h *host) Name() string { return "rotatebench" }
func (h *host) Failed() bool { return h.failed }

// Logf is silent: the machines' reports of themselves are for tests, and shown
// only when something went wrong.
func (h *host) Logf(format string, args ...any) {
	if h.failed {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

func (h *host) Errorf(format string, args ...any) {
	h.failed = true
	fmt.Fprintf(os.Stderr, "bench-rotate: "+format+"\n", args...)
}

func (h *host) Fatalf(format string, args ...any) {
	h.Errorf(format, args...)
	panic(failure{})
}

func (h *host) Cleanup(f func()) { h.last = append(h.last, f) }

func (h *host) TempDir() string {
	dir, err := os.MkdirTemp("", "imxcrypt-bench-")
	if err != nil {
		h.Fatalf("%v", err)
	}
	h.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (h *host) cleanup() {
	for i := len(h.last) - 1; i >= 0; i-- {
		h.last[i]()
	}
}
