// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"context"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/volume/header"
)

// Devices finds and opens block devices.
type Devices interface {
	// Find turns a device specification into a path, without waiting. A missing device is
	// an error of code [fault.DeviceMissing].
	Find(ctx context.Context, spec string) (string, error)
	Open(path string, f blockdev.Flags) (header.Device, error)
	Users(n blockdev.Number) (blockdev.Users, error)
	// Below returns the devices below a device, at any depth.
	Below(n blockdev.Number) []blockdev.Number
}

// Mapper is device-mapper. Activate and Load must be called on the thread whose keyring
// holds the table's key.
type Mapper interface {
	// Activate creates a mapping that is not announced: there is no link and no probing.
	// If it fails, nothing is left behind.
	Activate(ctx context.Context, name, uuid string, t dmcrypt.Table, readOnly bool) (dmcrypt.Number, error)
	// Announce makes an activated mapping public. When it returns, its node
	// /dev/mapper/NAME exists.
	Announce(ctx context.Context, name string) error
	Remove(ctx context.Context, name string) error
	// Info returns an error wrapping [dmcrypt.ErrNotFound] if there is no such mapping.
	Info(name string) (dmcrypt.Info, error)
	Table(name string) (dmcrypt.Table, error)
	// List returns all mappings whose UUID begins with one of the prefixes, or all
	// mappings if there is no prefix.
	List(uuidPrefixes ...string) ([]dmcrypt.Info, error)
	// Load, Clear, Suspend, Resume and Swap are those of [dmcrypt.Mapper], for the tables
	// of a volume in use.
	Load(ctx context.Context, name string, t dmcrypt.Table, readOnly bool) error
	Clear(name string) error
	Suspend(ctx context.Context, name string, flags dmcrypt.SuspendFlag) error
	Resume(name string, v dmcrypt.Visibility, flags dmcrypt.SuspendFlag) error
	Swap(ctx context.Context, name string, t dmcrypt.Table, readOnly bool, v dmcrypt.Visibility, flags dmcrypt.SuspendFlag) error
	// Announced reports whether the node /dev/mapper/NAME leads to the mapping.
	Announced(name string) (bool, error)
}
