// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"fmt"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

// Discard discards a range in bytes. secure asks that the old contents be unreachable
// afterwards, including copies made by wear levelling. Reading the range afterwards
// returns undefined data. The error wraps EOPNOTSUPP if the device cannot discard (few
// can do it securely, regular files cannot), and EINVAL if the range is not aligned to
// its blocks.
func (d *Device) Discard(off, length int64, secure bool) error {
	request, op := uint(unix.BLKDISCARD), "discard"
	if secure {
		request, op = unix.BLKSECDISCARD, "securely discard"
	}
	return d.onRange(op, off, length, func() error {
		switch {
		case d.isBlock:
			return rangeIoctl(d.file, request, off, length)
		case secure:
			return unix.EOPNOTSUPP
		}
		return unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	})
}

// Zero writes zeros over a range in bytes, with the device's own command if it has one. A
// range that is not aligned to its blocks fails with EINVAL.
func (d *Device) Zero(off, length int64) error {
	return d.onRange("zero", off, length, func() error {
		if d.isBlock {
			return rangeIoctl(d.file, unix.BLKZEROOUT, off, length)
		}
		zeros := make([]byte, min(length, bounceSize))
		for done := int64(0); done < length; {
			n, err := d.file.WriteAt(zeros[:min(length-done, int64(len(zeros)))], off+done)
			if err != nil {
				return err
			}
			done += int64(n)
		}
		return nil
	})
}

func (d *Device) onRange(op string, off, length int64, do func() error) error {
	err := error(ErrRange)
	if off >= 0 && length > 0 && length <= d.size && off <= d.size-length {
		d.rmw.Lock()
		err = do()
		d.rmw.Unlock()
	}
	if err == nil {
		return nil
	}
	err = bareErrno(err)
	code := ioCode(err)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		code = fault.DeviceUnsuitable
	}
	return &Error{Op: fmt.Sprintf("%s %d bytes at %d of", op, length, off), Path: d.path, Code: code, Err: err}
}
