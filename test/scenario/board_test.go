// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

// Package scenario runs the program as its users do, in virtual machines with
// the simulated CAAM, a real kernel, real dm-crypt and real filesystems.
package scenario

import (
	"strings"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// oneVolume is the configuration that most scenarios use.
const oneVolume = `volumes:
  - name: data
    device: /dev/vda
    mount: {path: /data, options: [noatime, nodev, nosuid]}
`

// board is a kind of machine on which the program runs: the architecture of the kernel
// and of the program.
type board struct {
	kernel vm.Arch
	goarch string
}

func boards() []board {
	return []board{{vm.AMD64, "amd64"}, {vm.ARM64, "arm64"}, {vm.ARM64, "arm"}}
}

// eachBoard runs a scenario on all boards, as subtests.
func eachBoard(t *testing.T, scenario func(*testing.T, board)) {
	t.Parallel()
	for _, b := range boards() {
		t.Run(b.goarch, func(t *testing.T) {
			t.Parallel()
			scenario(t, b)
		})
	}
}

// longScenario runs a scenario on the kind of board for which the program is made. The
// others are for make soak: the scenarios of eachBoard cover how they differ, in the
// ioctl's structure and the width of integers.
func longScenario(t *testing.T, scenario func(*testing.T, board)) {
	t.Parallel()
	for _, b := range boards() {
		t.Run(b.goarch, func(t *testing.T) {
			t.Parallel()
			b.soakBut(t, "arm64")
			scenario(t, b)
		})
	}
}

// soakBut skips a test on every board except the one on which make test runs it.
func (b board) soakBut(t *testing.T, goarch string) {
	t.Helper()
	if b.goarch != goarch && !soak() {
		t.Skipf("NOT TESTED: on %s by make soak only (IMXCRYPT_SOAK=1), here on %s", b.goarch, goarch)
	}
}

// start boots the board with a closed chip.
func (b board) start(t *testing.T, disks ...*vm.Disk) *vm.Machine {
	t.Helper()
	return vm.Start(t, vm.Config{
		Arch: b.kernel, Disks: disks, SimCAAM: &vm.SimCAAM{Closed: true},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", b.goarch),
	})
}

// expect checks a run's exit code and that either stream contains a text.
func (b board) expect(t *testing.T, r vm.Result, code int, text string) {
	t.Helper()
	t.Logf("exit %d in %v\n%s%s", r.Code, r.Duration, r.Stdout, r.Stderr)
	if r.Code != code {
		t.Errorf("exit code %d, expected %d", r.Code, code)
	}
	if !strings.Contains(r.Stdout+r.Stderr, text) {
		t.Errorf("nothing says %q", text)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// startLoad starts a load that was copied into the machine, and waits until it has
// written. On a busy host that may take longer than the action it is meant to disturb.
func startLoad(m *vm.Machine, args ...string) *vm.Process {
	p := m.Start(append([]string{"/opt/load"}, args...)...)
	p.WaitFor("begun", 3*time.Minute)
	return p
}
