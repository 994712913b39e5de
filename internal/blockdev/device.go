// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"imxcrypt/internal/devnum"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/plainfile"

	"golang.org/x/sys/unix"
)

// Flags say how a device is opened.
type Flags struct {
	// Write opens for reading and writing.
	Write bool
	// Exclusive claims a block device (O_EXCL): opening fails with a *BusyError while the
	// device, its disk or a partition of it is mounted, mapped or claimed elsewhere, or
	// is under a loop device. A regular file is locked (flock), as cryptsetup locks the
	// file of a detached header.
	Exclusive bool
	// Direct bypasses the page cache (O_DIRECT), so that what is read is what the device
	// holds, and makes each write durable before it returns (O_DSYNC). A regular file
	// gets only O_DSYNC: all processes see the same page cache, and many filesystems do
	// not support O_DIRECT.
	Direct bool
	// Cached removes O_DSYNC from Direct: a write may stay in the device's own cache
	// until Flush. Use it for many writes between flushes: on a device without FUA the
	// kernel flushes twice for every single O_DSYNC write.
	Cached bool
}

// Device is an open block device or regular file. Its methods may be used by
// several goroutines at once.
type Device struct {
	system  System
	file    *os.File
	path    string
	flags   Flags
	number  Number
	on      Number
	isBlock bool
	size    int64
	block   int // logical block size
	ro      bool
	direct  bool

	bounce buffers
	// rmw keeps writes off the blocks that an unaligned write reads, changes and writes
	// back. An unaligned write holds the lock, aligned writes share it.
	rmw sync.RWMutex
}

// Open opens a block device or a regular file. Errors are *Error (missing,
// neither device nor file, read-only, without permission), *BusyError, or
// carry an errno. The caller owns the Device and closes it.
func (s System) Open(path string, f Flags) (*Device, error) {
	// Check before opening: opening a character device can have side effects (a tape
	// rewinds, a watchdog starts), and a fifo blocks.
	var before unix.Stat_t
	if err := unix.Stat(path, &before); err != nil {
		return nil, openError(path, err)
	}
	block, err := kindOf(path, before.Mode)
	if err != nil {
		return nil, err
	}

	mode := unix.O_RDONLY
	if f.Write {
		mode = unix.O_RDWR
	}
	if f.Direct && f.Write && !f.Cached {
		mode |= unix.O_DSYNC
	}
	if f.Direct && block {
		mode |= unix.O_DIRECT
	}
	if f.Exclusive && block {
		mode |= unix.O_EXCL
	}
	file, err := plainfile.Open(path, mode)
	if err != nil {
		return nil, s.openFailed(path, devnum.Of(before.Rdev), f, err)
	}
	d := &Device{system: s, file: file, path: path, flags: f, isBlock: block, direct: f.Direct && block}
	err = d.measure(before)
	if err == nil && f.Exclusive {
		err = d.claim(before)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return d, nil
}

// kindOf distinguishes block devices from regular files, and refuses everything else.
func kindOf(path string, mode uint32) (block bool, err error) {
	switch mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return true, nil
	case unix.S_IFREG:
		return false, nil
	}
	return false, &Error{Op: "open", Path: path, Code: fault.DeviceUnsuitable, Err: ErrNotBlock}
}

// openFailed finds out why an open was refused.
func (s System) openFailed(path string, n Number, f Flags, err error) error {
	if errors.Is(err, unix.EBUSY) {
		// The users are for the message only; failing to find them is not an error.
		users, _ := s.Users(n)
		return &BusyError{Path: path, Users: users, Err: bareErrno(err)}
	}
	if f.Write && errors.Is(err, unix.EACCES) && s.sysfsReadOnly(n) {
		return &Error{Op: "open", Path: path, Code: fault.DeviceReadOnly, Err: ErrReadOnly}
	}
	return openError(path, err)
}

// measure fills in the descriptor's properties, and verifies that it is the object that
// was checked by name.
func (d *Device) measure(before unix.Stat_t) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.file.Fd()), &st); err != nil {
		return openError(d.path, err)
	}
	if st.Dev != before.Dev || st.Ino != before.Ino || st.Rdev != before.Rdev || st.Mode&unix.S_IFMT != before.Mode&unix.S_IFMT {
		return &Error{Op: "open", Path: d.path, Code: fault.FileUnsafe, Err: errors.New("replaced while it was being opened")}
	}
	if !d.isBlock {
		d.on = devnum.Of(st.Dev)
		d.size = st.Size
		d.block = 1
		d.ro = !d.flags.Write
		return nil
	}
	d.number = devnum.Of(st.Rdev)
	d.on = d.number
	var err error
	if d.size, err = deviceSize(d.file); err != nil {
		return openError(d.path, fmt.Errorf("ask its size: %w", err))
	}
	if d.block, err = logicalBlockSize(d.file); err != nil {
		return openError(d.path, fmt.Errorf("ask its logical block size: %w", err))
	}
	if d.block < 512 || d.block&(d.block-1) != 0 || d.block > bounceSize {
		return &Error{Op: "open", Path: d.path, Code: fault.DeviceUnsuitable, Err: fmt.Errorf("logical block size of %d bytes", d.block)}
	}
	// The kernel counts in 512-byte sectors; a tail smaller than a logical
	// block can be neither read nor written.
	d.size -= d.size % int64(d.block)
	if d.size <= 0 {
		return &Error{Op: "open", Path: d.path, Code: fault.DeviceNoMedium, Err: ErrEmpty}
	}
	if d.ro, err = deviceReadOnly(d.file); err != nil {
		return openError(d.path, fmt.Errorf("ask whether it is read-only: %w", err))
	}
	// Kernels before 5.5 let a read-only device be opened for writing and
	// fail at the first write.
	if d.ro && d.flags.Write {
		return &Error{Op: "open", Path: d.path, Code: fault.DeviceReadOnly, Err: ErrReadOnly}
	}
	return nil
}

// Path returns the path that the device was opened by.
func (d *Device) Path() string { return d.path }

// Number returns the device's number; zero for a regular file.
func (d *Device) Number() Number { return d.number }

// On returns the device that the bytes are on: its own number, or for a regular file that
// of its filesystem. A filesystem over several devices, such as btrfs, has a number that
// belongs to no device.
func (d *Device) On() Number { return d.on }

// IsBlock reports whether this is a block device, not a regular file.
func (d *Device) IsBlock() bool { return d.isBlock }

// Size returns the size in bytes, as it was when the device was opened.
func (d *Device) Size() int64 { return d.size }

// LogicalBlockSize returns the smallest unit in bytes that the device reads and writes; 1
// for a regular file.
func (d *Device) LogicalBlockSize() int { return d.block }

// PreferredEraseSize returns the device's preferred unit in bytes for erasing: the eMMC's
// own figure, or the discard granularity. 0 means unknown.
func (d *Device) PreferredEraseSize() int64 {
	if !d.isBlock {
		return 0
	}
	return d.system.eraseSize(d.number)
}

// ReadOnly reports whether the device refuses writes. A regular file counts as
// read-only unless it was opened for writing.
func (d *Device) ReadOnly() bool { return d.ro }

// Close closes the device. It may report errors of earlier buffered writes, so call
// Flush first after writing without Direct.
func (d *Device) Close() error {
	err := d.file.Close()
	return errors.Join(err, d.bounce.close())
}
