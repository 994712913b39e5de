// SPDX-License-Identifier: Apache-2.0

package header

import (
	"errors"
	"io"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
)

// Device is a block device, or the file of a detached header. Offsets and sizes are in
// bytes. A write is durable after Flush.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Flush() error
	Size() int64
	LogicalBlockSize() int
	// PreferredEraseSize is the storage's erase unit, or 0 if it is unknown.
	PreferredEraseSize() int64
	ReadOnly() bool
	Path() string
	Number() blockdev.Number
	// On is the device that the bytes are on: the device's own number, or that of the
	// filesystem that a regular file is in.
	On() blockdev.Number
	Close() error
}

// Storage is a volume's storage, opened: the device with the data, and what the header is
// on, which is the same device or a file.
type Storage struct {
	Data   Device
	Header Device
	// Erased looks for the record of an erase; nil if it is not needed.
	Erased func() (EraseRecord, bool, error)
}

// Detached reports whether the header is separate from the data.
func (c *Storage) Detached() bool { return c.Header != c.Data }

// Close closes the header and the data.
func (c *Storage) Close() error {
	var err error
	if c.Header != nil && c.Header != c.Data {
		err = c.Header.Close()
	}
	return errors.Join(err, c.Data.Close())
}

// ExplainErased adds to the error of a volume without a usable header that the volume was
// erased.
func (c *Storage) ExplainErased(err error) error {
	if err == nil || c.Erased == nil {
		return err
	}
	switch fault.CodeOf(err) {
	case fault.NotProvisioned, fault.ProvisioningStarted, fault.HeaderDamaged, fault.HeaderInvalid:
	default:
		return err // something else took the device, or it cannot be read
	}
	r, ok, readErr := c.Erased()
	switch {
	case readErr != nil || !ok:
		return err
	case r.State == EraseBegun:
		return fault.New(fault.EraseStarted, r.String()+", and that was interrupted", err)
	case fault.Is(err, fault.NotProvisioned):
		return fault.New(fault.NotProvisioned, r.String(), err)
	}
	return err
}
