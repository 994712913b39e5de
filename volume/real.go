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
	"imxcrypt/internal/plainfile"
	"imxcrypt/internal/secret"
	"imxcrypt/internal/uevent"
	"imxcrypt/keyring"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
)

// RunDir is the only place outside the devices that unlocking, verifying and inspecting
// volumes write to.
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
	return System{
		Devices:     realDevices{},
		Waiter:      realWaiter{},
		Mapper:      dmcrypt.Lazy(dmcrypt.Options{}),
		Keyring:     keyring.Ring{},
		Chip:        sync.OnceValues(o.chip),
		Files:       realFiles{atomicfile.Kernel()},
		Filesystems: mkfs.Maker{},
		Mounts:      mount.System{},
		Locks:       realLocks{},
		Swaps:       realSwaps{},
		Hibernates:  hibernates,
		Attach:      attachImage,
		Images:      loopdev.Images{},
		SecurityState: func() caam.SecurityState {
			return ReadChip("").State
		},
		Harden:     sync.OnceValue(secret.HardenData),
		KeepsKeys:  func() bool { return caam.ReadSecurityState("", nil).KeepsKeys },
		DropCaches: dropCaches,
		Requests:   requests,
		Fleeting:   Fleeting,
		Unlocks:    runRecords{RunDir},
		Log:        o.Log,
	}
}

// RealFiles is a System with nothing but files, for commands that only look at a file.
func RealFiles(log *slog.Logger) System {
	return System{Files: realFiles{atomicfile.Kernel()}, Log: log}
}

func (o RealOptions) chip() (source.Chip, error) {
	if o.Engine == "caam-keygen" {
		return caam.OpenProgram(o.Program, o.Location)
	}
	chip, err := caam.OpenIoctl(o.CAAMDevice)
	if !errors.Is(err, fs.ErrNotExist) {
		return chip, err
	}
	return awaitChip(o.CAAMDevice, err)
}

// driverPatience is how long to wait for the CAAM's node. The chip is there or not; only
// its driver may be a moment later than the storage's.
const driverPatience = 2 * time.Second

// awaitChip opens the node as soon as the driver is loaded. missing is the error if that
// takes too long.
func awaitChip(path string, missing error) (source.Chip, error) {
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

func (d realDevices) Open(path string, f blockdev.Flags) (header.Device, error) {
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

type realFiles struct{ atomicfile.Writer }

// Create also makes the directories above the file, readable to root only.
func (f realFiles) Create(path string, data []byte, perm fs.FileMode) error {
	if err := f.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return f.Writer.Create(path, data, perm)
}

func (f realFiles) Replace(path string, data []byte, perm fs.FileMode) error {
	if err := f.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return f.Writer.Replace(path, data, perm)
}

func (realFiles) Read(path string, o atomicfile.ReadOptions) ([]byte, error) {
	return atomicfile.Read(path, o)
}

func (realFiles) Trusted(path string) error { return atomicfile.Trusted(path) }

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

// dropCaches drops pages, directory entries and inodes that are clean
// (Documentation/admin-guide/sysctl/vm.rst).
func dropCaches() error { return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) }

// requests is the kernel's count of what was read from and written to a device
// (Documentation/admin-guide/iostats.rst).
func requests(n dmcrypt.Number) string {
	text, _ := plainfile.Attribute("/sys/dev/block/" + n.String() + "/stat")
	return text
}

// slept is System.Slept for the running kernel. CLOCK_BOOTTIME continues while the system
// is suspended, CLOCK_MONOTONIC does not (clock_gettime(2)). If no clock runs through the
// suspend, the clocks do not show it, so the kernel's own count is read, too (Linux 5.4
// and later, Documentation/ABI/testing/sysfs-power).
func slept() Slept {
	var s Slept
	if text, err := plainfile.Attribute("/sys/power/suspend_stats/success"); err == nil {
		s.Times, _ = strconv.Atoi(text)
	}
	// The clocks cannot be read at the same time. The time between the reads is small in
	// one of a few tries, however busy the system is.
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
