// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/cpuinfo"
	"imxcrypt/internal/mkfs"
	"imxcrypt/internal/mount"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
)

// Waiter blocks until a device may have appeared or ctx ends.
type Waiter interface {
	// Watch begins to watch; what appears after it returned wakes Next.
	Watch() (Watch, error)
}

// Watch is one wait for devices. Next returns nil when something changed.
type Watch interface {
	Next(ctx context.Context) error
	Close() error
}

// Filesystems runs mkfs and fsck.
type Filesystems interface {
	Make(ctx context.Context, fstype, device string, o mkfs.Options) error
	// Check repairs what can be repaired without asking. A program that is not
	// there is an error of code [fault.ProgramMissing].
	Check(ctx context.Context, fstype, device string) (repaired bool, err error)
	// Grow has the filesystem that is mounted on target take the size bytes of its
	// device.
	Grow(fstype, target string, size int64) (grown bool, err error)
	// Room enforces that a folder is on storage that outlives the power, with room for
	// need bytes.
	Room(dir string, need int64) error
	// Sound enforces that the checker of ext4 finds nothing wrong; it writes nothing.
	Sound(ctx context.Context, device string) error
	// Shrink finds out how an ext4 filesystem fits into size bytes, with work as a folder
	// of its own, and writes nothing to the device. log is package ext4shrink's.
	Shrink(ctx context.Context, device, work string, size int64) (log []byte, err error)
}

// Mounts mounts and reports what is mounted.
type Mounts interface {
	Mount(source, target, fstype string, options []string) error
	Unmount(target string) error
	// Idle enforces that what is mounted on target could be unmounted now.
	Idle(target string) error
	// Elsewhere enforces that no mount that is chosen stays in another mount namespace
	// when those in this one are unmounted.
	Elsewhere(chosen func(*mount.Entry) bool) error
	List() ([]mount.Entry, error)
	// Look reports what is at a mount point; Target.Usable says why it cannot be
	// mounted on.
	Look(target string) (mount.Target, error)
	// InFstab is the mount point of /etc/fstab that a file would be made in; empty
	// for the root.
	InFstab(file string) (target string, err error)
}

// Swaps swaps on devices.
type Swaps interface {
	SwapOn(device string, discard bool) error
	SwapOff(device string) error
}

// Locks keeps two runs from working on one volume.
type Locks interface {
	Acquire(ctx context.Context, name string) (release func() error, err error)
}

// System is everything outside this package that a volume's life needs. All
// fields must be set, except Chip, which is asked for only by volumes of the
// caam source, and those with a default named here.
type System struct {
	Devices     mapping.Devices
	Waiter      Waiter
	Mapper      mapping.Mapper
	Keyring     source.Keyring
	Chip        func() (source.Chip, error)
	Files       source.Files
	Filesystems Filesystems
	Mounts      Mounts
	Locks       Locks
	// Swaps swaps on volumes of filesystem swap; nil where there are none.
	Swaps Swaps
	// Hibernates are the devices that a suspend-to-disk writes to, as the kernel has them:
	// specifications, or numbers as in "179:3".
	Hibernates func() ([]string, error) // none
	// Attach makes a read-only device of an image in a file; nil where there are
	// no images. The device goes when it is closed and nothing lies on it.
	Attach func(path string) (device string, closer io.Closer, err error)
	// Images makes devices of volumes in files; nil where a volume's device is never a
	// file.
	Images Images
	// SecurityState reads the chip's state; never fails, may be unknown.
	SecurityState func() caam.SecurityState
	// Harden prepares the process to hold keys; it is called before one is opened.
	Harden func() error // nothing
	// KeepsKeys reports whether the chip's black keys outlive a suspend.
	KeepsKeys func() bool // they do not
	// HasAES reports whether the processor has instructions for AES.
	HasAES func() bool // this processor's
	// DropCaches has the kernel forget what it has read and not changed.
	DropCaches func() error // it is not
	// Fleeting says why what is written below a path is gone after a power cut, or may be.
	Fleeting func(path string) string // it is not
	Unlocks  UnlockRecords            // keeps none
	Now      func() time.Time         // time.Now
	// Requests is a text that differs once somebody has read or written a mapping.
	Requests func(dmcrypt.Number) string // not known
	// Patience bounds what is soon over: a program of udev's that has a mapping open, a look
	// through a mapping that somebody may suspend meanwhile.
	Patience time.Duration // 2 s
	// Slept reports the suspends since the system started. What lies in the kernel's
	// memory survives one, the meaning of a black key may not.
	Slept func() Slept // the running kernel's
	Rand  io.Reader    // crypto/rand
	Log   *slog.Logger // discards
}

// Slept is how often and how long the system has been suspended.
type Slept struct {
	Times int           `json:"times"` // 0 where the kernel does not count
	For   time.Duration `json:"for_ns"`
}

// shortestSleep is more than the clocks differ by chance, and less than any suspend
// to RAM takes.
const shortestSleep = 50 * time.Millisecond

// Since reports whether the system was suspended between two looks.
func (s Slept) Since(before Slept) bool {
	return s.Times != before.Times || s.For-before.For >= shortestSleep
}

// Manager runs the life of volumes on one System.
type Manager struct {
	sys     System
	kernel  mapping.Kernel
	sources source.Sources
	// looks counts the looks through live mappings that have these open, also those
	// that were given up and still wait for storage.
	looks atomic.Int32
	// images are the devices of images that are in use.
	images held
}

// WithDefaults is the system with the fields set that have a default.
func (s System) WithDefaults() System {
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Slept == nil {
		s.Slept = slept
	}
	if s.HasAES == nil {
		s.HasAES = cpuinfo.ThisHasAES
	}
	if s.Harden == nil {
		s.Harden = func() error { return nil }
	}
	if s.Hibernates == nil {
		s.Hibernates = func() ([]string, error) { return nil, nil }
	}
	if s.Fleeting == nil {
		s.Fleeting = func(string) string { return "" }
	}
	if s.Rand == nil {
		s.Rand = rand.Reader
	}
	if s.Patience == 0 {
		s.Patience = 2 * time.Second
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	return s
}

// New returns a Manager.
func New(sys System) *Manager {
	sys = sys.WithDefaults()
	return &Manager{
		sys:     sys,
		kernel:  mapping.Kernel{Devices: sys.Devices, Mapper: sys.Mapper, Attach: sys.Attach},
		sources: source.Sources{Chip: sys.Chip, Keyring: sys.Keyring, Files: sys.Files, Rand: sys.Rand, Log: sys.Log, Warned: new(source.Warned)},
	}
}
