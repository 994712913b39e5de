// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"unsafe"
)

// NewTestIoctl is an Ioctl whose kernel is call: it gets the ioctl's number
// and the command struct as the bytes a kernel would copy, and may change
// them.
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
