// SPDX-License-Identifier: Apache-2.0

// Package dmtest is a device-mapper without a kernel, for tests of packages that use
// dmcrypt. Its mappings hold real ciphertext, over any backing that can be read and
// written at offsets, and it has the kernel's rough edges: keys are found only by the
// thread that has them, a device in use cannot be removed, a suspended one makes its
// users wait, and a black key of another power cycle is noticed when data is read, not
// when the table is loaded.
//
// TestMapper checks that the fake and the kernel behave in the same way.
package dmtest

import (
	"context"
	"io"

	"imxcrypt/dmcrypt"
)

// Mapper is the method set that [dmcrypt.Mapper] and [Kernel] share.
type Mapper interface {
	Activate(ctx context.Context, name, uuid string, t dmcrypt.Table, readOnly bool) (dmcrypt.Number, error)
	Announce(ctx context.Context, name string) error
	Load(ctx context.Context, name string, t dmcrypt.Table, readOnly bool) error
	Clear(name string) error
	Suspend(ctx context.Context, name string, flags dmcrypt.SuspendFlag) error
	Resume(name string, v dmcrypt.Visibility, flags dmcrypt.SuspendFlag) error
	Swap(ctx context.Context, name string, t dmcrypt.Table, readOnly bool, v dmcrypt.Visibility, flags dmcrypt.SuspendFlag) error
	Remove(ctx context.Context, name string) error
	RemoveLater(name string) error
	Rename(name, newName string, v dmcrypt.Visibility) error
	SetUUID(name, uuid string) error
	Info(name string) (dmcrypt.Info, error)
	ByNumber(n dmcrypt.Number) (dmcrypt.Info, error)
	List(uuidPrefixes ...string) ([]dmcrypt.Info, error)
	Table(name string) (dmcrypt.Table, error)
	InactiveTable(name string) (dmcrypt.Table, error)
	Devices(name string) ([]dmcrypt.Number, error)
	Verify(name, uuid string, want dmcrypt.Table, readOnly bool) (dmcrypt.Info, error)
	TargetVersion(target string) (dmcrypt.Version, error)
	Version() (dmcrypt.Version, error)
	Node(name string) string
	DevicePath(name string, n dmcrypt.Number) (string, error)
	Close() error
}

var (
	_ Mapper = (*dmcrypt.Mapper)(nil)
	_ Mapper = (*Kernel)(nil)
)

// Backing is a device under a mapping. If it also has a method Flush() error, that is
// called when a mapping over it is flushed.
type Backing interface {
	io.ReaderAt
	io.WriterAt
	// Size returns the size in bytes.
	Size() int64
}
