// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"crypto/rand"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/mkfs"
	"imxcrypt/internal/mount"
)

// Device is a block device, or the file of a detached header. Offsets and
// sizes are in bytes. A write is durable after Flush.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Flush() error
	Size() int64
	LogicalBlockSize() int
	// PreferredEraseSize is the storage's erase unit, 0 where it is unknown.
	PreferredEraseSize() int64
	ReadOnly() bool
	Path() string
	Number() blockdev.Number
	Close() error
}

// Devices finds and opens block devices.
type Devices interface {
	// Find turns a device specification into a path, now or never: a device
	// that is not there is an error of code [fault.DeviceMissing].
	Find(ctx context.Context, spec string) (string, error)
	Open(path string, f blockdev.Flags) (Device, error)
	Users(n blockdev.Number) (blockdev.Users, error)
	// Below are the devices that a device stands on, at any depth.
	Below(n blockdev.Number) []blockdev.Number
}

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

// Mapper is device-mapper. Activate and Load must be called on the thread
// whose keyring holds the table's key.
type Mapper interface {
	// Activate creates a mapping that the system is not told of: no link, no
	// probing. On failure nothing is left behind.
	Activate(ctx context.Context, name, uuid string, t dmcrypt.Table, readOnly bool) (dmcrypt.Number, error)
	// Announce makes an activated mapping public; when it returns, its node
	// /dev/mapper/NAME is there.
	Announce(ctx context.Context, name string) error
	Remove(ctx context.Context, name string) error
	// Info is an error of [dmcrypt.ErrNotFound] for a mapping that is not there.
	Info(name string) (dmcrypt.Info, error)
	Table(name string) (dmcrypt.Table, error)
	// List is all mappings whose UUID begins with one of the prefixes; all there
	// are without one.
	List(uuidPrefixes ...string) ([]dmcrypt.Info, error)
	// Load, Clear, Suspend, Resume and Swap are those of [dmcrypt.Mapper], for
	// the tables of a volume in use.
	Load(ctx context.Context, name string, t dmcrypt.Table, readOnly bool) error
	Clear(name string) error
	Suspend(ctx context.Context, name string, flags dmcrypt.SuspendFlag) error
	Resume(name string, v dmcrypt.Visibility, flags dmcrypt.SuspendFlag) error
	Swap(ctx context.Context, name string, t dmcrypt.Table, readOnly bool, v dmcrypt.Visibility, flags dmcrypt.SuspendFlag) error
	// Announced tells whether the node /dev/mapper/NAME leads to the mapping.
	Announced(name string) (bool, error)
}

// Keyring lends a thread a key for the duration of a call.
type Keyring interface {
	WithLogonKey(description string, payload []byte, use func() error) error
}

// Chip is the CAAM, through whichever engine the configuration chose.
type Chip interface {
	Create(ctx context.Context, wrap caam.Wrap, keySize int) (*caam.BlackKey, caam.Blob, error)
	Import(ctx context.Context, blob caam.Blob) (*caam.BlackKey, error)
}

// Files are regular files on power-fail-safe terms.
type Files interface {
	Create(path string, data []byte, perm fs.FileMode) error
	// Settle makes a file durable that an interrupted run may have left.
	Settle(path string) error
	// Remove is no error for a file that is not there.
	Remove(path string) error
	Read(path string, o atomicfile.ReadOptions) ([]byte, error)
	// List are the names in a folder; none if there is no such folder.
	List(dir string) ([]string, error)
}

// Filesystems runs mkfs and fsck.
type Filesystems interface {
	Make(ctx context.Context, fstype, device string, o mkfs.Options) error
	// Check repairs what can be repaired without asking. A program that is not
	// there is an error of code [fault.ProgramMissing].
	Check(ctx context.Context, fstype, device string) (repaired bool, err error)
}

// Mounts mounts and tells what is mounted.
type Mounts interface {
	Mount(source, target, fstype string, options []string) error
	Unmount(target string) error
	List() ([]mount.Entry, error)
	// Look tells what is at a mount point; Target.Usable says why it cannot be
	// mounted on.
	Look(target string) (mount.Target, error)
}

// Locks keeps two runs from working on one volume.
type Locks interface {
	Acquire(ctx context.Context, name string) (release func() error, err error)
}

// System is everything outside this package that a volume's life needs. All
// fields must be set, except Chip, which is asked for only by volumes of the
// caam source, and those with a default named here.
type System struct {
	Devices     Devices
	Waiter      Waiter
	Mapper      Mapper
	Keyring     Keyring
	Chip        func() (Chip, error)
	Files       Files
	Filesystems Filesystems
	Mounts      Mounts
	Locks       Locks
	// Attach makes a read-only device of an image in a file; nil where there are
	// no images. The device goes when it is closed and nothing lies on it.
	Attach func(path string) (device string, closer io.Closer, err error)
	// SecurityState reads the chip's state; never fails, may be unknown.
	SecurityState func() caam.SecurityState
	Unlocks       UnlockRecords    // keeps none
	Now           func() time.Time // time.Now
	// Slept tells of the suspends since the system started. What lies in the kernel's
	// memory survives one, the meaning of a black key may not.
	Slept func() Slept // the running kernel's
	Rand  io.Reader    // crypto/rand
	Log   *slog.Logger // discards
}

// Slept is how often and how long the system has been suspended.
type Slept struct {
	Times int // 0 where the kernel does not count
	For   time.Duration
}

// shortestSleep is more than the clocks differ by chance, and less than any suspend
// to RAM takes.
const shortestSleep = 50 * time.Millisecond

// since tells whether the system was suspended between two looks.
func (s Slept) since(before Slept) bool {
	return s.Times != before.Times || s.For-before.For >= shortestSleep
}

// Manager runs the life of volumes on one System.
type Manager struct{ sys System }

// New returns a Manager.
func New(sys System) *Manager {
	if sys.Now == nil {
		sys.Now = time.Now
	}
	if sys.Slept == nil {
		sys.Slept = slept
	}
	if sys.Rand == nil {
		sys.Rand = rand.Reader
	}
	if sys.Log == nil {
		sys.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{sys: sys}
}
