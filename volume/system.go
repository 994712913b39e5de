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
	// Check repairs what can be repaired without asking. A missing program is an error of
	// code [fault.ProgramMissing].
	Check(ctx context.Context, fstype, device string) (repaired bool, err error)
	// Grow grows the filesystem mounted on target to the size of its device, in bytes.
	Grow(fstype, target string, size int64) (grown bool, err error)
	// Room enforces that a directory is on storage that survives a power cut, with room
	// for need bytes.
	Room(dir string, need int64) error
	// Sound enforces that the checker of ext4 finds nothing wrong. It writes nothing.
	Sound(ctx context.Context, device string) error
	// Shrink finds out how an ext4 filesystem fits into size bytes, with work as a
	// directory of its own. It writes nothing to the device. log is in the format of
	// package ext4shrink.
	Shrink(ctx context.Context, device, work string, size int64) (log []byte, err error)
}

// Mounts mounts and reports what is mounted.
type Mounts interface {
	Mount(source, target, fstype string, options []string) error
	Unmount(target string) error
	// Idle enforces that what is mounted on target could be unmounted now.
	Idle(target string) error
	// Elsewhere enforces that no chosen mount stays in another mount namespace when those
	// in this one are unmounted.
	Elsewhere(chosen func(*mount.Entry) bool) error
	List() ([]mount.Entry, error)
	// Look reports what is at a mount point; Target.Usable says why it cannot be
	// mounted on.
	Look(target string) (mount.Target, error)
	// InFstab returns the mount point in /etc/fstab below which file would be made; empty
	// for the root.
	InFstab(file string) (target string, err error)
}

// Swaps swaps on devices.
type Swaps interface {
	SwapOn(device string, discard bool) error
	SwapOff(device string) error
}

// Locks keeps two runs from working on the same volume.
type Locks interface {
	Acquire(ctx context.Context, name string) (release func() error, err error)
}

// System is everything outside this package that the life of a volume needs. All fields
// must be set, except Chip, which only volumes of the caam source ask for, and those with
// a default named here.
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
	// Swaps swaps on volumes of filesystem swap; nil if there are none.
	Swaps Swaps
	// Hibernates returns the devices that a suspend-to-disk writes to, as the kernel
	// names them: specifications, or numbers as in "179:3".
	Hibernates func() ([]string, error) // none
	// Attach makes a read-only device of an image file; nil if there are no images. The
	// device is removed when it is closed and no mapping is on it.
	Attach func(path string) (device string, closer io.Closer, err error)
	// Images makes devices of volumes in files; nil if a volume's device is never a file.
	Images Images
	// SecurityState reads the chip's state. It never fails; the state may be unknown.
	SecurityState func() caam.SecurityState
	// Harden prepares the process to hold keys; it is called before one is opened.
	Harden func() error // nothing
	// KeepsKeys reports whether the chip's black keys survive a suspend.
	KeepsKeys func() bool // they do not
	// HasAES reports whether the processor has AES instructions.
	HasAES func() bool // this processor's
	// DropCaches has the kernel drop what it has read and not changed.
	DropCaches func() error // nothing is dropped
	// Fleeting says why what is written below a path is gone after a power cut, or may
	// be.
	Fleeting func(path string) string // it is kept
	Unlocks  UnlockRecords            // keeps none
	Now      func() time.Time         // time.Now
	// Requests returns a text that changes once a mapping has been read or written.
	Requests func(dmcrypt.Number) string // not known
	// Patience bounds what is soon over: a program of udev's that has a mapping open, a
	// look through a mapping that may be suspended meanwhile.
	Patience time.Duration // 2 s
	// Slept reports the suspends since the system started. The content of the kernel's
	// memory survives one, the meaning of a black key may not.
	Slept func() Slept // the running kernel's
	Rand  io.Reader    // crypto/rand
	Log   *slog.Logger // discards
}

// Slept is how often and how long the system has been suspended.
type Slept struct {
	Times int           `json:"times"` // 0 if the kernel does not count
	For   time.Duration `json:"for_ns"`
}

// shortestSleep is more than the clocks differ by chance and less than any suspend to RAM
// takes.
const shortestSleep = 50 * time.Millisecond

// Since reports whether the system was suspended between before and s.
func (s Slept) Since(before Slept) bool {
	return s.Times != before.Times || s.For-before.For >= shortestSleep
}

// Manager runs the life of volumes on one System.
type Manager struct {
	sys     System
	kernel  mapping.Kernel
	sources source.Sources
	// looks counts the looks through live mappings that have these open, including
	// abandoned ones that still wait for storage.
	looks atomic.Int32
	// images are the devices of images in use.
	images held
}

// WithDefaults returns the system with the default of each field that is not set.
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
