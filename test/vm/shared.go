// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"os"
	"path/filepath"
	"sync"
)

// sharedGuests are the machines that the tests of this process share. They are
// the one package-level state here: a boot costs more than most tests, and no
// other place outlives a test. They end with the process (see guest.run).
var sharedGuests struct {
	amd64, arm64 sharedGuest
}

type sharedGuest struct {
	sync.Mutex
	boots int
	guest *guest
}

// Shared returns a running machine that the tests of the process share: one
// with a closed simulated CAAM and without disks (use loop devices), for tests
// that need no power cycle and clean up behind them. One that has ended is
// replaced.
func Shared(t TB, arch Arch) *Machine {
	t.Helper()
	s := &sharedGuests.amd64
	if arch == ARM64 {
		s = &sharedGuests.arm64
	}
	s.Lock()
	defer s.Unlock()
	m := &Machine{t: t, cfg: Config{Arch: arch, SimCAAM: &SimCAAM{Closed: true}}, shared: true}
	g := s.guest
	if g == nil || g.over() {
		s.boots++
		// Tests of several packages run at once, each its own process.
		console, err := newConsole("shared-by-"+filepath.Base(os.Args[0]), arch, s.boots)
		if err != nil {
			t.Fatalf("vm: %v", err)
		}
		m.console = console
		if g, err = boot(context.Background(), m.cfg, console); err != nil {
			t.Fatalf("vm: boot %s: %v\n%s", arch, err, m.consoleTail())
		}
		m.logBoot(g)
		s.guest = g
	}
	m.guest, m.console = g, g.console
	t.Cleanup(m.dump)
	return m
}

// over reports whether QEMU has ended.
func (g *guest) over() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}
