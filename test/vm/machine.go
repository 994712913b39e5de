// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"imxcrypt/test/guest/wire"
)

// TB is the part of testing.TB that this package uses, so that programs that are not
// tests (the demonstration) can also drive machines. Fatalf must not return.
type TB interface {
	Helper()
	Name() string
	TempDir() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Machine is a virtual machine that is on, or whose power was cut. Its methods end the
// test if the machine does not do what they describe; the Try… methods return an error
// instead. Several goroutines may use a Machine, but only the test's own goroutine may
// turn it on or off.
type Machine struct {
	t    TB
	cfg  Config
	boot int // number of the current boot, from 1

	shared bool // with other tests; it stays on

	console string // console file of the last boot

	mu    sync.Mutex
	guest *guest // nil while off
	late  int    // disks plugged in since power-on
}

// Start boots a machine once a place for it is free (see places). At the end of the
// test its power is cut. If the test has failed, the end of the console is written to
// the test's log.
func Start(t TB, cfg Config) *Machine {
	t.Helper()
	takePlace(t)
	m := &Machine{t: t, cfg: cfg.clone()}
	t.Cleanup(m.cleanup)
	m.powerOn()
	return m
}

// Restart cuts the power if the machine is on, applies the changes to the configuration
// and boots: a power cycle with the same disks.
func (m *Machine) Restart(changes ...func(*Config)) {
	m.t.Helper()
	m.PowerCut()
	for _, change := range changes {
		change(&m.cfg)
	}
	m.powerOn()
}

func (m *Machine) powerOn() {
	m.t.Helper()
	m.boot++
	console, err := newConsole(m.t.Name(), m.cfg.Arch, m.boot)
	if err != nil {
		m.t.Fatalf("vm: %v", err)
	}
	m.console = console
	g, err := boot(context.Background(), m.cfg, console)
	if err != nil {
		m.t.Fatalf("vm: boot %s: %v\n%s", m.cfg.Arch, err, m.consoleTail())
	}
	m.mu.Lock()
	m.guest, m.late = g, 0
	m.mu.Unlock()
	m.logBoot(g)
}

func (m *Machine) logBoot(g *guest) {
	m.t.Helper()
	m.t.Logf("vm: %s, kernel %s, ready after %.1f s (%.1f s of processor time)",
		m.cfg.Arch, g.kernel, g.booted.Seconds(), g.spent.Seconds())
}

// PowerCut cuts the power without warning the guest. What the guest wrote to its disks
// stays, flushed or not, so a cut proves nothing about flushes. It is not an error if
// the machine is off.
func (m *Machine) PowerCut() {
	m.t.Helper()
	if g := m.off(); g != nil {
		m.logCost(g, 0)
		g.kill()
	}
}

// logCost logs the processor time that a guest has used since its total was since.
// `make test` sums it up by test. A guest that has ended logs nothing.
func (m *Machine) logCost(g *guest, since time.Duration) {
	m.t.Helper()
	if spent, err := processorTime(g.cmd.Process.Pid); err == nil {
		m.t.Logf("vm: used %.1f s of processor time", (spent - since).Seconds())
	}
}

// PowerOff lets the guest write back its caches and shut down.
func (m *Machine) PowerOff() {
	m.t.Helper()
	g := m.off()
	if g == nil {
		return
	}
	defer g.kill()
	m.logCost(g, 0)
	if err := g.channel.send(wire.Header{Op: wire.Power}, nil); err != nil {
		m.t.Fatalf("vm: power off: %v\n%s", err, m.consoleTail())
	}
	select {
	case <-g.ended:
	case <-time.After(m.cfg.timeout()):
		m.t.Fatalf("vm: power off: still on after %v\n%s", m.cfg.timeout(), m.consoleTail())
	}
}

// off marks the machine as off and returns the guest to end, or nil if there is none.
func (m *Machine) off() *guest {
	m.t.Helper()
	if m.shared {
		m.t.Fatalf("vm: a shared machine stays on; use Start")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.guest
	m.guest = nil
	return g
}

// on returns the running guest.
func (m *Machine) on() (*guest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.guest == nil {
		return nil, fmt.Errorf("%w: it is off", ErrGone)
	}
	return m.guest, nil
}

// Arch returns the machine's architecture.
func (m *Machine) Arch() Arch { return m.cfg.Arch }

// Kernel returns the release of the guest's kernel, or "" while the machine is off.
func (m *Machine) Kernel() string {
	g, err := m.on()
	if err != nil {
		return ""
	}
	return g.kernel
}

// BootTime returns the host's time from power-on until the guest could run programs.
func (m *Machine) BootTime() time.Duration {
	g, err := m.on()
	if err != nil {
		return 0
	}
	return g.booted
}

// QMP sends a command, such as "system_wakeup", to QEMU's monitor and returns the
// answer. The arguments may be nil.
func (m *Machine) QMP(command string, arguments any) json.RawMessage {
	m.t.Helper()
	g, err := m.on()
	if err != nil {
		m.t.Fatalf("vm: %v", err)
	}
	answer, err := g.monitor.command(command, arguments)
	if err != nil {
		m.t.Fatalf("vm: %v", err)
	}
	return answer
}

// ConsolePath returns the file on the host that holds the console of the current or
// last boot: kernel warnings, and what was written to /dev/console.
func (m *Machine) ConsolePath() string { return m.console }

// Console returns the console output of the current or last boot.
func (m *Machine) Console() string {
	m.t.Helper()
	text, err := os.ReadFile(m.console)
	if err != nil {
		m.t.Fatalf("vm: console: %v", err)
	}
	return string(text)
}

func (m *Machine) consoleTail() string {
	text, err := os.ReadFile(m.console)
	if err != nil {
		return "no console: " + err.Error()
	}
	return fmt.Sprintf("--- end of the console (%s)\n%s\n---", m.console, tail(string(text), 40))
}

// newConsole makes an empty file for the console of a boot.
func newConsole(name string, arch Arch, boot int) (string, error) {
	top, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(top, "build/vm-logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	name = strings.Map(func(r rune) rune {
		if strings.ContainsRune("/\\:, \"'*?", r) {
			return '_'
		}
		return r
	}, name)
	file := filepath.Join(dir, fmt.Sprintf("%s-%s-boot%d.log", name, arch, boot))
	return file, os.WriteFile(file, nil, 0o644)
}

func (m *Machine) cleanup() {
	m.t.Helper()
	m.dump()
	m.PowerCut()
}

// dump writes the guest's last messages to the log of a test that has failed.
func (m *Machine) dump() {
	m.t.Helper()
	if m.t.Failed() {
		m.t.Logf("%s", m.consoleTail())
		if r, err := m.TryRun(context.Background(), Command{Argv: []string{"dmesg"}, Timeout: 10 * time.Second}); err == nil {
			m.t.Logf("--- end of the kernel log\n%s\n---", tail(r.Stdout, 40))
		}
	}
}
