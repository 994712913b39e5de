// SPDX-License-Identifier: Apache-2.0

// Package volumetest is a board without hardware, for tests of packages that use volume:
// a simulated CAAM, a device-mapper that really encrypts, keyrings that belong to
// threads, disks that lose what was not flushed, and files.
//
// It has the real system's hard edges: only the thread that has a key finds it, a black
// key does not survive a power cut, a device that is mapped cannot be opened exclusively,
// and one that is not there yet is not found.
package volumetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/dmcrypt"
	"imxcrypt/dmcrypt/dmtest"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/lockfile"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
)

// Store holds the bytes of a disk: an image or a recorded disk of package crashtest.
type Store interface {
	dmtest.Backing
	Flush() error
}

// Disk is one of the board's disks.
type Disk struct {
	Path      string
	Store     Store
	EraseSize int64 // bytes; 0: the storage does not say
	BlockSize int   // bytes; 0: 512
	ReadOnly  bool
	// Absent disks are not found until they are plugged in.
	Absent bool
	// Image reports that the disk is a regular file, of which a loop device can be made.
	Image bool
	// Users are the other users of the disk.
	Users blockdev.Users
	// Err is returned by reads, instead of data.
	Err error
	// Secure is asked before a range in bytes is securely discarded; its error is the
	// discard's. If it is nil, the disk has no secure discard.
	Secure func(off, length int64) error

	number blockdev.Number
	// image is the path of the image under a loop device. The device is removed when no
	// one has it open and no mapping is on it.
	image   string
	openers int
}

// Board is one power cycle of a board. Its fields may be set before it is used.
type Board struct {
	Chip  *caamtest.Chip
	State caam.SecurityState
	Disks []*Disk
	// FilesOn are the mappings that files are on, by the files' paths.
	FilesOn map[string]blockdev.Number
	Files   *Files
	DM      *dmtest.Kernel
	Ring    *Ring
	Mounts
	// Answers are specifications that several disks answer to.
	Answers map[string][]string
	// ChipErr is why the chip cannot be opened.
	ChipErr error
	// Directories are the mount points that exist.
	Directories []string
	// NoAES is a processor without instructions for AES.
	NoAES bool
	// Mkfs is asked before a filesystem is made; its error is mkfs's.
	Mkfs func(fstype, device string) error
	// Fsck is the outcome of the filesystem's checker; nil finds nothing.
	Fsck func(fstype, device string) (repaired bool, err error)
	// NoRoom says why a directory cannot be a workspace.
	NoRoom func(dir string, need int64) error
	// NoCiphers are algorithms that dm-crypt does not get, even if /proc/crypto lists
	// them.
	NoCiphers []string
	// NoTargets are device-mapper targets that the kernel does not have.
	NoTargets []string
	// Step is called with a description before everything that changes something durable
	// or in the kernel. There is one call at a time, since a rotation copies on several
	// threads. An error is the step's result, and nothing is done.
	Step func(what string) error
	Log  *slog.Logger
	Now  func() time.Time
	// Patience is System's. Tests in which something stays busy set a short one.
	Patience time.Duration

	// LoopErr is why no loop device can be made or looked up.
	LoopErr error
	// ImageRoom is how many bytes a new image may have.
	ImageRoom int64
	// Grown is the size that mounted filesystems were grown to, by their mount points.
	Grown map[string]int64

	// Hibernates are the devices that a suspend-to-disk is written to.
	Hibernates []string

	stepping sync.Mutex
	swaps    map[dmcrypt.Number]*dmtest.File
	mu       sync.Mutex
	locks    map[string]bool
	claimed  map[string]bool // paths that are open exclusively
	made     []string
	loops    []*Disk
	plugged  chan struct{}
	asleep   atomic.Int64 // nanoseconds
	pages    pages
	unlocks  records
}

const protectedCipher = "cbc(paes)"

// New returns a board with a chip and disks, just powered on.
func New(chip *caamtest.Chip, files *Files, disks ...*Disk) *Board {
	b := &Board{
		Chip: chip, State: caam.Closed, Disks: disks, Files: files, Ring: &Ring{Trust: chip},
		locks: map[string]bool{}, claimed: map[string]bool{}, plugged: make(chan struct{}, 16),
	}
	b.Mounts.board = b
	files.before = b.step
	for i, d := range disks {
		if d.Image {
			continue
		}
		d.number = blockdev.Number{Major: 179, Minor: uint32(8 * (i + 1))}
	}
	b.DM = dmtest.New(dmtest.Options{
		Device: b.backing,
		Key:    b.Ring.Find,
		RedKey: func(algorithm string, payload []byte) ([]byte, error) {
			if algorithm == protectedCipher {
				return chip.UnwrapProtected(payload)
			}
			return chip.Unwrap(payload)
		},
		NoCiphers: func() []string { return b.NoCiphers },
		NoTargets: func() []string { return b.NoTargets },
		Before:    func(step, name string) error { return b.step(step + " " + name) },
	})
	return b
}

func (b *Board) step(what string) error {
	if b.Step == nil {
		return nil
	}
	b.stepping.Lock()
	defer b.stepping.Unlock()
	return b.Step(what)
}

// System returns the board as package volume sees it.
func (b *Board) System() volume.System {
	return volume.System{
		Devices: devices{b}, Waiter: waiter{b}, Mapper: mapper{b.DM, b}, Keyring: b.Ring,
		Chip:   func() (source.Chip, error) { return b.Chip, b.ChipErr },
		Attach: b.attach, Images: images{b},
		Files: b.Files, Filesystems: filesystems{b}, Mounts: &b.Mounts, Locks: locks{b},
		SecurityState: func() caam.SecurityState { return b.State },
		HasAES:        func() bool { return !b.NoAES },
		Swaps:         swaps{b},
		Hibernates:    func() ([]string, error) { return b.Hibernates, nil },
		Unlocks:       &b.unlocks, DropCaches: b.dropCaches,
		Now: b.Now, Patience: b.Patience, Log: b.Log, Slept: func() volume.Slept { return volume.Slept{For: time.Duration(b.asleep.Load())} },
	}
}

// attach makes a read-only disk of a file, like a loop device.
func (b *Board) attach(path string) (string, io.Closer, error) {
	store, err := b.Files.open(path)
	if err != nil {
		return "", nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.freeLoop()
	d := &Disk{Path: fmt.Sprintf("/dev/loop%d", n), Store: store, ReadOnly: true, number: blockdev.Number{Major: 7, Minor: n}}
	b.loops = append(b.loops, d)
	return d.Path, detach{b, d}, nil
}

// detach gives up a loop device.
type detach struct {
	*Board
	disk *Disk
}

func (d detach) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.disk.Absent = true
	return nil
}

// Sleep suspends the system for a while and wakes it up. What is in the kernel stays, and
// the chip loses the key that its black keys are encrypted with.
func (b *Board) Sleep(d time.Duration) {
	b.Chip.PowerCycle()
	b.Doze(d)
}

// Doze is Sleep for a chip that keeps its keys.
func (b *Board) Doze(d time.Duration) { b.asleep.Add(int64(d)) }

// Manager returns a volume.Manager for the board.
func (b *Board) Manager() *volume.Manager { return volume.New(b.System()) }

// Plug makes an absent disk appear.
func (b *Board) Plug(d *Disk) {
	b.mu.Lock()
	d.Absent = false
	b.mu.Unlock()
	b.plugged <- struct{}{}
}

// Made lists the filesystems made in this power cycle, as "ext4 on NAME".
func (b *Board) Made() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, b.made...)
}

// disk finds a disk by its path.
func (b *Board) disk(path string) *Disk {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range append(slices.Clip(b.Disks), b.loops...) {
		if d.Path == path && !d.Absent {
			return d
		}
	}
	return nil
}

func (b *Board) backing(n dmcrypt.Number) (dmtest.Backing, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range append(slices.Clip(b.Disks), b.loops...) {
		if d.number.Major == n.Major && d.number.Minor == n.Minor && !d.Absent {
			if len(d.Users.Mounts)+len(d.Users.Swap) > 0 || b.claimed[d.Path] {
				return nil, unix.EBUSY
			}
			return d.Store, nil
		}
	}
	return nil, unix.ENODEV
}

// users returns the other users of a disk, including the mappings on it.
func (b *Board) users(d *Disk) (blockdev.Users, error) {
	u := d.Users
	holders, err := b.holders(d.number)
	u.Holders = append(slices.Clone(u.Holders), holders...)
	return u, err
}

// holders returns the mappings on a device.
func (b *Board) holders(under blockdev.Number) (list []blockdev.Holder, err error) {
	infos, err := b.DM.List()
	if err != nil {
		return nil, err
	}
	for _, i := range infos {
		numbers, err := b.DM.Devices(i.Name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(numbers, under) {
			list = append(list, blockdev.Holder{Device: fmt.Sprintf("dm-%d", i.Number.Minor), Name: i.Name, UUID: i.UUID})
		}
	}
	return list, nil
}

// mapper adds to the fake device-mapper what the wrapper of the real one does.
type mapper struct {
	*dmtest.Kernel
	board *Board
}

// Announced looks for the mapping's public node.
func (m mapper) Announced(name string) (bool, error) {
	f, err := m.Open(m.Node(name), false)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

type locks struct{ *Board }

func (l locks) Acquire(_ context.Context, name string) (func() error, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.locks[name] {
		return nil, &lockfile.HeldError{Path: volume.RunDir + "/" + name, Name: name, PID: 4711, Command: "imxcrypt rotate " + name, Since: time.Unix(0, 0)}
	}
	l.locks[name] = true
	return func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.locks, name)
		return nil
	}, nil
}

type waiter struct{ *Board }

func (w waiter) Watch() (volume.Watch, error) { return watch(w), nil }

type watch struct{ *Board }

func (w watch) Next(ctx context.Context) error {
	select {
	case <-w.plugged:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w watch) Close() error { return nil }

type devices struct{ *Board }

func (d devices) Find(_ context.Context, spec string) (string, error) {
	if d.disk(spec) != nil {
		return spec, nil
	}
	if strings.HasPrefix(spec, "/dev/mapper/") {
		if f, err := d.DM.Open(spec, false); err == nil {
			return spec, f.Close()
		}
	}
	if several := d.Answers[spec]; len(several) > 0 {
		return "", &blockdev.AmbiguousError{Spec: spec, Candidates: several}
	}
	return "", &blockdev.NotFoundError{Spec: spec}
}

func (d devices) Users(n blockdev.Number) (blockdev.Users, error) {
	for _, disk := range d.Disks {
		if disk.number == n {
			return d.users(disk)
		}
	}
	holders, err := d.holders(n)
	u := blockdev.Users{Holders: holders}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.swaps[n] != nil {
		u.Swap = []string{fmt.Sprintf("dm-%d", n.Minor)}
	}
	return u, err
}

// Below returns the devices under a mapping, and those under them.
func (d devices) Below(n blockdev.Number) []blockdev.Number {
	info, err := d.DM.ByNumber(n)
	if err != nil {
		return nil
	}
	under, err := d.DM.Devices(info.Name)
	if err != nil {
		return nil
	}
	var all []blockdev.Number
	for _, u := range under {
		below := u
		all = append(append(all, below), d.Below(below)...)
	}
	return all
}

func (d devices) Open(path string, f blockdev.Flags) (header.Device, error) {
	if disk := d.disk(path); disk != nil {
		users, err := d.users(disk)
		if err != nil {
			return nil, err
		}
		if f.Exclusive && !users.None() {
			return nil, &blockdev.BusyError{Path: path, Users: users, Err: unix.EBUSY}
		}
		if f.Write && disk.ReadOnly {
			return nil, &blockdev.Error{Op: "open", Path: path, Code: fault.DeviceReadOnly, Err: unix.EROFS}
		}
		if disk.image != "" {
			d.mu.Lock()
			disk.openers++
			d.mu.Unlock()
		}
		return d.claim(&openDisk{Disk: disk, board: d.Board, write: f.Write}, f.Exclusive)
	}
	if strings.HasPrefix(path, "/dev/") {
		file, err := d.DM.Open(path, f.Write)
		if err != nil {
			return nil, err
		}
		if mounts := d.Mounts.of(file.Number()); f.Exclusive && len(mounts) > 0 {
			return nil, errors.Join(&blockdev.BusyError{Path: path, Users: blockdev.Users{Mounts: mounts}, Err: unix.EBUSY}, file.Close())
		}
		return openMapping{file, d.Board}, nil
	}
	store, err := d.Files.open(path)
	if err != nil {
		return nil, &blockdev.Error{Op: "open", Path: path, Code: fault.DeviceMissing, Err: err}
	}
	// As with a real file: read-only unless opened for writing.
	return d.claim(&openDisk{Disk: &Disk{Path: path, Store: store, ReadOnly: !f.Write}, board: d.Board, write: f.Write}, f.Exclusive)
}

// claim keeps other exclusive opens and mappings from a disk, and other exclusive
// opens from a file, until it is closed.
func (b *Board) claim(o *openDisk, exclusive bool) (header.Device, error) {
	if !exclusive {
		return o, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.claimed[o.Disk.Path] {
		return nil, &blockdev.BusyError{Path: o.Disk.Path, Err: unix.EBUSY}
	}
	o.claims, b.claimed[o.Disk.Path] = true, true
	return o, nil
}

// openDisk is an open disk or file.
type openDisk struct {
	*Disk
	board *Board
	write bool
	// claims reports that it is open exclusively.
	claims, closed bool
}

func (o *openDisk) ReadAt(p []byte, off int64) (int, error) {
	if o.Err != nil {
		return 0, o.Err
	}
	return o.Store.ReadAt(p, off)
}

func (o *openDisk) WriteAt(p []byte, off int64) (int, error) {
	if !o.write {
		return 0, unix.EBADF
	}
	if err := o.board.step("write " + o.Disk.Path); err != nil {
		return 0, err
	}
	return o.Store.WriteAt(p, off)
}

func (o *openDisk) Flush() error {
	if err := o.board.step("flush " + o.Disk.Path); err != nil {
		return err
	}
	return o.Store.Flush()
}

// Discard forgets a range if the disk's store can, as [crashtest.Disk] does. A secure
// discard writes zeros, if [Disk.Secure] permits it.
func (o *openDisk) Discard(off, length int64, secure bool) error {
	if secure && o.Secure != nil {
		if err := o.Secure(off, length); err != nil {
			return err
		}
		_, err := o.WriteAt(make([]byte, length), off)
		return err
	}
	store, ok := o.Store.(interface {
		Discard(off, length int64, secure bool) error
	})
	if !ok || secure {
		return unix.EOPNOTSUPP
	}
	if err := o.board.step("discard " + o.Disk.Path); err != nil {
		return err
	}
	return store.Discard(off, length, secure)
}

func (o *openDisk) Size() int64               { return o.Store.Size() }
func (o *openDisk) PreferredEraseSize() int64 { return o.EraseSize }
func (o *openDisk) ReadOnly() bool            { return o.Disk.ReadOnly }
func (o *openDisk) Path() string              { return o.Disk.Path }
func (o *openDisk) Number() blockdev.Number   { return o.number }

func (o *openDisk) On() blockdev.Number {
	if on, ok := o.board.FilesOn[o.Disk.Path]; ok {
		return on
	}
	return o.number
}

func (o *openDisk) Close() error {
	if o.claims {
		o.board.mu.Lock()
		delete(o.board.claimed, o.Disk.Path)
		o.board.mu.Unlock()
		o.claims = false
	}
	if o.Disk.image != "" && !o.closed {
		o.closed = true
		return opener{o.board, o.Disk}.Close()
	}
	return nil
}

func (o *openDisk) LogicalBlockSize() int {
	if o.BlockSize == 0 {
		return 512
	}
	return o.BlockSize
}

// openMapping is an open mapping.
type openMapping struct {
	*dmtest.File
	board *Board
}

func (o openMapping) WriteAt(p []byte, off int64) (int, error) {
	if err := o.board.step("write " + o.Path()); err != nil {
		return 0, err
	}
	return o.File.WriteAt(p, off)
}

func (o openMapping) Flush() error {
	if err := o.board.step("flush " + o.Path()); err != nil {
		return err
	}
	return o.File.Flush()
}

func (o openMapping) PreferredEraseSize() int64 { return 0 }
func (o openMapping) On() blockdev.Number       { return o.Number() }
func (o openMapping) Number() blockdev.Number {
	n := o.File.Number()
	return n
}
