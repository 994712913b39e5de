// SPDX-License-Identifier: Apache-2.0

// Package loopdev gives an image in a regular file the device that
// device-mapper needs.
package loopdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// Device is a loop device. It goes by itself when nobody has it open any more,
// a mapping on it included, so a process that dies leaves none behind.
type Device struct {
	path string
	file *os.File
}

// Path is its node, "/dev/loop0".
func (d *Device) Path() string { return d.path }

// Close gives up this process's hold on the device.
func (d *Device) Close() error { return d.file.Close() }

// attempts bounds how often another free device is asked for when somebody
// else was faster.
const attempts = 64

// Attach makes a read-only device of the file at path. Errors are of code
// device-unsuitable (not a regular file), permission-missing, or
// device-missing (this kernel has no loop devices), with the errno.
func Attach(path string) (*Device, error) { return attachFile(path, os.O_RDONLY) }

// AttachWritable is Attach for a device that can be written to.
func AttachWritable(path string) (*Device, error) { return attachFile(path, os.O_RDWR) }

func attachFile(path string, access int) (_ *Device, err error) {
	image, err := os.OpenFile(path, access|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failed("open "+path, err)
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	if info, err := image.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fault.New(fault.DeviceUnsuitable, path+" is no regular file", err)
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
		d, err := attach(fmt.Sprintf("/dev/loop%d", number), image, access)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, failed("find a free loop device", unix.EBUSY)
}

// attach uses the old pair of ioctls and not LOOP_CONFIGURE, which came with
// Linux 5.8. That both files are open for reading only makes the device
// read-only.
func attach(path string, image *os.File, access int) (*Device, error) {
	file, err := os.OpenFile(path, access|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failed("open "+path, err)
	}
	if err := unix.IoctlSetInt(int(file.Fd()), unix.LOOP_SET_FD, int(image.Fd())); err != nil {
		return nil, errors.Join(failed("attach "+image.Name()+" to "+path, err), file.Close())
	}
	info := unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}
	if access == os.O_RDONLY {
		info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(info.File_name[:len(info.File_name)-1], image.Name())
	if err := unix.IoctlLoopSetStatus64(int(file.Fd()), &info); err != nil {
		detached := unix.IoctlSetInt(int(file.Fd()), unix.LOOP_CLR_FD, 0)
		return nil, errors.Join(failed("set up "+path, err), detached, file.Close())
	}
	return &Device{path: path, file: file}, nil
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
