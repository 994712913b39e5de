// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// NewTestIoctl returns an Ioctl whose kernel is call: call gets the ioctl's number and
// the command struct as the bytes a kernel would copy, and may change them.
func NewTestIoctl(path string, call func(request uint, command []byte) error) *Ioctl {
	return &Ioctl{
		path: path,
		call: func(request uint, c *command) error {
			return call(request, unsafe.Slice((*byte)(unsafe.Pointer(c)), commandSize))
		},
		close: func() error { return nil },
	}
}

// KernelText is kernelText.
func KernelText(buffer []byte) string { return kernelText(buffer) }

// FencedInChroot is a fence around nothing, for a caller whose root is a directory.
func FencedInChroot(root, dir string) error {
	return onDoomedThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Chroot(root); err != nil {
			return err
		}
		return inside(dir, func() error { return nil })
	})
}
