// SPDX-License-Identifier: Apache-2.0

// Package loopdev attaches an image in a regular file to a loop device, because
// device-mapper needs a device.
package loopdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// Device is a loop device. It disappears when no process or mapping has it open any more,
// so a process that dies leaves none behind.
type Device struct {
	path string
	file *os.File
}

// Path returns the device's node, "/dev/loop0".
func (d *Device) Path() string { return d.path }

// Close releases the device.
func (d *Device) Close() error { return d.file.Close() }

// attempts bounds the retries when another process takes the free device first.
const attempts = 64

// Attach attaches the file at path, read-only. Errors have the code
// device-unsuitable (not a regular file), permission-missing, or
// device-missing (this kernel has no loop devices), with the errno.
func Attach(path string) (*Device, error) { return attachFile(path, 0, os.O_RDONLY) }

// AttachWritable is Attach, but writable.
func AttachWritable(path string) (*Device, error) { return attachFile(path, 0, os.O_RDWR) }

// attachFile attaches a file. sector is the block size of the device in bytes, with
// direct I/O if possible; 0 means the kernel's default, through the page cache. If sector
// is given, a file that cannot be written is attached read-only.
func attachFile(path string, sector, access int) (_ *Device, err error) {
	image, err := os.OpenFile(path, access|unix.O_CLOEXEC, 0)
	if sector > 0 && (errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES)) {
		access = os.O_RDONLY
		image, err = os.OpenFile(path, access|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, failed("open "+path, err)
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	info, err := image.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, fault.New(fault.DeviceUnsuitable, path+" is not a regular file", err)
	}
	if sector > 0 && info.Size()%int64(sector) != 0 {
		sector = minSector // with larger blocks the last bytes could not be reached
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failed("open /dev/loop-control (module loop)", err)
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	for range attempts {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, failed("find a free loop device", err)
		}
		d, err := attach(fmt.Sprintf("/dev/loop%d", number), image, sector, access)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, failed("find a free loop device", unix.EBUSY)
}

// minSector is the smallest block of a loop device in bytes.
const minSector = 512

// attach sets everything at once with LOOP_CONFIGURE, so that a killed process leaves
// nothing behind. Kernels before 5.8 have only a pair of ioctls, and between the two a
// device without the flag that removes it. The device is read-only if both files are open
// only for reading.
func attach(path string, image *os.File, sector, access int) (*Device, error) {
	file, err := os.OpenFile(path, access|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failed("open "+path, err)
	}
	config := unix.LoopConfig{Fd: uint32(image.Fd()), Size: uint32(sector)}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if access == os.O_RDONLY {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], image.Name())
	old := config.Info
	if sector > 0 {
		config.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	err = unix.IoctlLoopConfigure(int(file.Fd()), &config)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		err = attachOld(file, image, &old, sector)
	}
	if err != nil {
		return nil, errors.Join(failed("attach "+image.Name()+" to "+path, err), file.Close())
	}
	return &Device{path: path, file: file}, nil
}

func attachOld(file, image *os.File, info *unix.LoopInfo64, sector int) error {
	if err := unix.IoctlSetInt(int(file.Fd()), unix.LOOP_SET_FD, int(image.Fd())); err != nil {
		return err
	}
	if err := unix.IoctlLoopSetStatus64(int(file.Fd()), info); err != nil {
		return errors.Join(err, unix.IoctlSetInt(int(file.Fd()), unix.LOOP_CLR_FD, 0))
	}
	if sector > 0 {
		// Neither is needed for the data to be right, and not every kernel or filesystem
		// supports them.
		_ = unix.IoctlSetInt(int(file.Fd()), unix.LOOP_SET_BLOCK_SIZE, sector)
		_ = unix.IoctlSetInt(int(file.Fd()), unix.LOOP_SET_DIRECT_IO, 1)
	}
	return nil
}

func failed(what string, err error) error {
	code := fault.Failed
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		code = fault.PermissionMissing
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		code = fault.DeviceMissing
	}
	return fault.New(code, what, err)
}
