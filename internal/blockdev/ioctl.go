// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of linux/fs.h. x/sys has their numbers, but no call that passes
// a 64-bit result or a range.

func deviceSize(f *os.File) (int64, error) {
	var size uint64
	err := ioctl(f, unix.BLKGETSIZE64, unsafe.Pointer(&size))
	return int64(size), err
}

func logicalBlockSize(f *os.File) (int, error) {
	var size int32
	err := ioctl(f, unix.BLKSSZGET, unsafe.Pointer(&size))
	return int(size), err
}

func deviceReadOnly(f *os.File) (bool, error) {
	var ro int32
	err := ioctl(f, unix.BLKROGET, unsafe.Pointer(&ro))
	return ro != 0, err
}

// rangeIoctl runs one of the ioctls that take an offset and a length in bytes.
func rangeIoctl(f *os.File, request uint, off, length int64) error {
	r := [2]uint64{uint64(off), uint64(length)}
	return ioctl(f, request, unsafe.Pointer(&r))
}

func ioctl(f *os.File, request uint, arg unsafe.Pointer) error {
	defer runtime.KeepAlive(f)
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
