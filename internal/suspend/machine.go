// SPDX-License-Identifier: Apache-2.0

package suspend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options configures a Machine. The zero value is right outside tests.
type Options struct {
	Freezer FreezerOptions
	// Sys is "/sys".
	Sys string
	// KernelLog is where alarms are written: "/dev/kmsg". The kernel shows them on the
	// console, and the journal reads them from there.
	KernelLog string
}

// Machine is the running system on its way to sleep. The process should be locked in
// memory.
type Machine struct {
	o       Options
	power   *Power
	log     *os.File
	freezer *Freezer
}

// Open opens what can be opened without changing anything. The error has the code
// suspend-missing if the kernel has no suspend-to-RAM.
func Open(o Options) (*Machine, error) {
	if o.Sys == "" {
		o.Sys = "/sys"
	}
	if o.KernelLog == "" {
		o.KernelLog = "/dev/kmsg"
	}
	m := &Machine{o: o}
	var err error
	if m.power, err = OpenPower(o.Sys); err != nil {
		return nil, err
	}
	if m.log, err = os.OpenFile(o.KernelLog, os.O_WRONLY, 0); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Freeze implements sleep.Machine. The error has the code suspend-missing if the kernel
// lacks something, and not-frozen if a process did not stop.
func (m *Machine) Freeze(ctx context.Context) (err error) {
	if err := m.power.SyncNothing(); err != nil {
		return err
	}
	if err := avoidIO(); err != nil {
		return fmt.Errorf("keep the kernel from waiting for I/O when it needs memory: %w", err)
	}
	if m.freezer, err = OpenFreezer(m.o.Freezer); err != nil {
		return err
	}
	return m.freezer.Freeze(ctx)
}

// avoidIO keeps every thread from waiting, when memory is short, for a page to be written
// to a device that this process has suspended. Kernels before 5.6 do not support it.
func avoidIO() error {
	_, _, errno := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0)
	if errno == 0 || errno == unix.EINVAL || errno == unix.ENOTSUP {
		return nil
	}
	return errno
}

// Thaw implements sleep.Machine.
func (m *Machine) Thaw() error { return m.freezer.Thaw() }

// Sync implements sleep.Machine.
func (m *Machine) Sync() { unix.Sync() }

// Sleep implements sleep.Machine.
func (m *Machine) Sleep() error { return m.power.Sleep() }

// Alarm implements sleep.Machine. It logs with priority 2, critical.
func (m *Machine) Alarm(text string) {
	line := "<2>imxcrypt: " + strings.ReplaceAll(text, "\n", "; ")
	// The kernel takes records of up to 1 KiB. An error could not be reported.
	_, _ = m.log.WriteString(line[:min(len(line), 900)] + "\n")
}

// Close releases everything.
func (m *Machine) Close() error {
	var errs []error
	if m.freezer != nil {
		errs = append(errs, m.freezer.Close())
	}
	if m.log != nil {
		errs = append(errs, m.log.Close())
	}
	if m.power != nil {
		errs = append(errs, m.power.Close())
	}
	return errors.Join(errs...)
}
