// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"os"
	"path/filepath"
	"sync"
)

// sharedGuests are the machines that the tests of this process pass on to each other.
// They are package-level state because a boot costs more than most tests, and nothing
// else outlives a test. They end with the process (see child.start).
var sharedGuests struct {
	amd64, arm64 sharedGuest
}

type sharedGuest struct {
	sync.Mutex
	boots int
	idle  []*guest
	used  map[string]*guest // by the name of the test that has it
}

// Shared returns a running machine, with a closed simulated CAAM and without disks (use
// loop devices), that earlier tests may have used. It is for tests that need no power
// cycle and that clean up after themselves. The test has the machine to itself until it
// ends; its subtests get the same one. A machine that has ended is replaced.
func Shared(t TB, arch Arch) *Machine {
	t.Helper()
	takePlace(t)
	s := &sharedGuests.amd64
	if arch == ARM64 {
		s = &sharedGuests.arm64
	}
	m := &Machine{t: t, cfg: Config{Arch: arch, SimCAAM: &SimCAAM{Closed: true}}, shared: true}
	holder, g := s.of(t)
	if g == nil || g.over() {
		g = s.start(t, m)
		s.Lock()
		s.used[holder] = g
		s.Unlock()
	}
	m.guest, m.console = g, g.console
	if since, err := processorTime(g.cmd.Process.Pid); err == nil {
		t.Cleanup(func() { m.logCost(g, since) })
	}
	t.Cleanup(m.dump)
	return m
}

// of returns the name of the test to which a machine belongs or will belong: this test
// or one of which it is a subtest. It also returns that test's machine or an idle one,
// or nil.
func (s *sharedGuest) of(t TB) (holder string, g *guest) {
	s.Lock()
	defer s.Unlock()
	if holder, g = ofAncestor(s.used, t.Name()); holder != "" {
		return holder, g
	}
	holder = t.Name()
	if n := len(s.idle); n > 0 {
		g, s.idle = s.idle[n-1], s.idle[:n-1]
	}
	if s.used == nil {
		s.used = map[string]*guest{}
	}
	s.used[holder] = g
	t.Cleanup(func() {
		s.Lock()
		defer s.Unlock()
		if g := s.used[holder]; g != nil && !g.over() {
			s.idle = append(s.idle, g)
		}
		delete(s.used, holder)
	})
	return holder, g
}

func (s *sharedGuest) start(t TB, m *Machine) *guest {
	t.Helper()
	s.Lock()
	s.boots++
	number := s.boots
	s.Unlock()
	// Tests of several packages run at once, each in its own process.
	console, err := newConsole("shared-by-"+filepath.Base(os.Args[0]), m.cfg.Arch, number)
	if err != nil {
		t.Fatalf("vm: %v", err)
	}
	m.console = console
	g, err := boot(context.Background(), m.cfg, console)
	if err != nil {
		t.Fatalf("vm: boot %s: %v\n%s", m.cfg.Arch, err, m.consoleTail())
	}
	m.logBoot(g)
	return g
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
