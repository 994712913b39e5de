// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/lockfile"
	"imxcrypt/internal/loopdev"
	"imxcrypt/internal/mkfs"
	"imxcrypt/internal/mount"
	"imxcrypt/internal/uevent"
	"imxcrypt/keyring"
)

// RunDir is the only place outside the devices that unlocking, verifying and
// looking at volumes write to.
const RunDir = "/run/imxcrypt"

// RealOptions say where the running system keeps things.
type RealOptions struct {
	// Engine is "ioctl" or "caam-keygen".
	Engine string
	// CAAMDevice is the node of the ioctl engine.
	CAAMDevice string
	// Program and Location are NXP's caam-keygen and the directory built into it.
	Program, Location string
	Log               *slog.Logger
}

// Real is the running system. Nothing is opened before it is needed.
func Real(o RealOptions) System {
	mapper := &lazyMapper{open: sync.OnceValues(func() (*dmcrypt.Mapper, error) { return dmcrypt.New(dmcrypt.Options{}) })}
	return System{
		Devices:     realDevices{},
		Waiter:      realWaiter{},
		Mapper:      mapper,
		Keyring:     keyring.Ring{},
		Chip:        sync.OnceValues(o.chip),
		Files:       realFiles{},
		Filesystems: mkfs.Maker{},
		Mounts:      realMounts{},
		Locks:       realLocks{},
		Attach:      attachImage,
		SecurityState: func() caam.SecurityState {
			return ReadChip("").State
		},
		Unlocks: runRecords{RunDir},
		Log:     o.Log,
	}
}

// RealFiles is a System with nothing but files: for commands that look at one.
func RealFiles(log *slog.Logger) System { return System{Files: realFiles{}, Log: log} }

func (o RealOptions) chip() (Chip, error) {
	if o.Engine == "caam-keygen" {
		return caam.OpenProgram(o.Program, o.Location)
	}
	chip, err := caam.OpenIoctl(o.CAAMDevice)
	if !errors.Is(err, fs.ErrNotExist) {
		return chip, err
	}
	return awaitChip(o.CAAMDevice, err)
}

// driverPatience is how long the CAAM's node is waited for. The chip is there or
// it is not; only its driver may be a moment later than the storage's.
const driverPatience = 2 * time.Second

// awaitChip opens the node as soon as the driver is loaded; missing is the error
// if it is not in time.
func awaitChip(path string, missing error) (Chip, error) {
	l, err := uevent.Listen()
	if err != nil {
		return nil, missing
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), driverPatience)
	defer cancel()
	for {
		chip, err := caam.OpenIoctl(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return chip, err
		}
		if l.Next(ctx) != nil {
			return nil, missing
		}
	}
}

type realDevices struct{ blockdev.System }

func (d realDevices) Open(path string, f blockdev.Flags) (Device, error) {
	dev, err := d.System.Open(path, f)
	if err != nil {
		// A nil *blockdev.Device must not become a Device that is not nil.
		return nil, err
	}
	return dev, nil
}

type realWaiter struct{}

func (realWaiter) Watch() (Watch, error) {
	l, err := uevent.Listen()
	if err != nil {
		return nil, err
	}
	return l, nil
}

// lazyMapper opens the control device at its first use: looking at a help text
// or a configuration needs no device-mapper.
type lazyMapper struct {
	open func() (*dmcrypt.Mapper, error)
}

func (l *lazyMapper) Activate(ctx context.Context, name, uuid string, t dmcrypt.Table, readOnly bool) (dmcrypt.Number, error) {
	m, err := l.open()
	if err != nil {
		return dmcrypt.Number{}, err
	}
	return m.Activate(ctx, name, uuid, t, readOnly)
}

func (l *lazyMapper) Announce(ctx context.Context, name string) error {
	m, err := l.open()
	if err != nil {
		return err
	}
	return m.Announce(ctx, name)
}

func (l *lazyMapper) Remove(ctx context.Context, name string) error {
	m, err := l.open()
	if err != nil {
		return err
	}
	return m.Remove(ctx, name)
}

func (l *lazyMapper) Info(name string) (dmcrypt.Info, error) {
	m, err := l.open()
	if err != nil {
		return dmcrypt.Info{}, err
	}
	return m.Info(name)
}

func (l *lazyMapper) Table(name string) (dmcrypt.Table, error) {
	m, err := l.open()
	if err != nil {
		return nil, err
	}
	return m.Table(name)
}

// Announced compares the node's device with the mapping's.
func (l *lazyMapper) Announced(name string) (bool, error) {
	m, err := l.open()
	if err != nil {
		return false, err
	}
	info, err := m.Info(name)
	if err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Stat(m.Node(name), &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, &fs.PathError{Op: "stat", Path: m.Node(name), Err: err}
	}
	return st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == info.Number.Dev(), nil
}

type realFiles struct{}

// Create makes the directories above the file too, readable to root only.
func (realFiles) Create(path string, data []byte, perm fs.FileMode) error {
	if err := atomicfile.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.Create(path, data, perm)
}

func (realFiles) Settle(path string) error { return atomicfile.Settle(path) }

func (realFiles) Remove(path string) error { return atomicfile.Remove(path) }

func (realFiles) Read(path string, o atomicfile.ReadOptions) ([]byte, error) {
	return atomicfile.Read(path, o)
}

func (realFiles) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

type realMounts struct{}

func (realMounts) Mount(source, target, fstype string, options []string) error {
	return mount.Mount(source, target, fstype, options)
}

func (realMounts) Unmount(target string) error { return mount.Unmount(target) }

func (realMounts) List() ([]mount.Entry, error) { return mount.List() }

func (realMounts) Look(target string) (mount.Target, error) { return mount.Look(target) }

func attachImage(path string) (string, io.Closer, error) {
	d, err := loopdev.Attach(path)
	if err != nil {
		return "", nil, err
	}
	return d.Path(), d, nil
}

type realLocks struct{}

func (realLocks) Acquire(_ context.Context, name string) (func() error, error) {
	l, err := lockfile.Acquire(RunDir, name)
	if err != nil {
		return nil, err
	}
	return l.Release, nil
}

// slept is System.Slept of the running kernel. CLOCK_BOOTTIME goes on while the
// system is suspended, CLOCK_MONOTONIC does not (clock_gettime(2)); where no clock
// outlasts the suspend it is not counted by the time, so that the kernel's own count
// is looked at, too (Linux 5.4 and later, Documentation/ABI/testing/sysfs-power).
func slept() Slept {
	var s Slept
	if text, err := os.ReadFile("/sys/power/suspend_stats/success"); err == nil {
		s.Times, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	// The clocks are not read at once: what lies between is small in one of a few
	// tries, however busy the system is.
	for range 100 {
		var before, boot, after unix.Timespec
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &before) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil ||
			unix.ClockGettime(unix.CLOCK_MONOTONIC, &after) != nil {
			break
		}
		s.For = max(s.For, time.Duration(boot.Nano()-after.Nano()))
		if after.Nano()-before.Nano() < int64(time.Millisecond) {
			break
		}
	}
	return s
}
