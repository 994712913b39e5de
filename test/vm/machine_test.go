// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package vm_test

import (
	"bytes"
	"testing"

	"imxcrypt/test/vm"
)

func forEachArch(t *testing.T, test func(t *testing.T, arch vm.Arch)) {
	for _, arch := range vm.Arches() {
		t.Run(string(arch), func(t *testing.T) {
			t.Parallel()
			test(t, arch)
		})
	}
}

func TestRun(t *testing.T) {
	forEachArch(t, func(t *testing.T, arch vm.Arch) {
		m := vm.Start(t, vm.Config{Arch: arch})
		r := m.Sh("echo out; echo err >&2; exit 7")
		if r.Code != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
			t.Errorf("got %v", r)
		}
		data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<17)
		m.Put("/tmp/large", data)
		if got := m.Get("/tmp/large"); !bytes.Equal(got, data) {
			t.Errorf("got %d bytes back of %d", len(got), len(data))
		}
	})
}
