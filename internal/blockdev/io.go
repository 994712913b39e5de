// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"fmt"
	"io"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

// ReadAt implements io.ReaderAt for any offset and length, whatever the
// logical block size. A read across the end returns what there is and io.EOF.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, d.ioError("read", len(p), off, unix.EINVAL)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= d.size {
		return 0, io.EOF
	}
	whole := p
	if int64(len(p)) > d.size-off {
		p = p[:d.size-off]
	}
	n, err := d.read(p, off)
	if err != nil {
		return n, d.ioError("read", len(whole), off, err)
	}
	if n < len(whole) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt for any offset and length. With O_DIRECT, unaligned
// edges are read, changed and written back; two processes must not do that to one block
// at once, and a power cut can affect the rest of the block too. A write beyond the end
// is refused as a whole with ErrRange; files do not grow.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > d.size || off > d.size-int64(len(p)) {
		return 0, d.ioError("write", len(p), off, ErrRange)
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := d.write(p, off)
	if err != nil {
		return n, d.ioError("write", len(p), off, err)
	}
	return n, nil
}

// Flush makes everything written so far durable, the device's own write cache
// included.
func (d *Device) Flush() error {
	if err := d.file.Sync(); err != nil {
		err = bareErrno(err)
		return &Error{Op: "flush", Path: d.path, Code: ioCode(err), Err: err}
	}
	return nil
}

func (d *Device) ioError(op string, n int, off int64, err error) error {
	err = bareErrno(err)
	return &Error{Op: fmt.Sprintf("%s %d bytes at %d of", op, n, off), Path: d.path, Code: ioCode(err), Err: err}
}

func ioCode(err error) fault.Code {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fault.StorageFull
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS), errors.Is(err, unix.EBADF):
		return fault.DeviceReadOnly
	}
	return fault.IOFailed
}

// aligned reports whether the kernel accepts p at off as it is.
func (d *Device) aligned(p []byte, off int64) bool {
	if !d.direct {
		return true
	}
	mask := int64(d.block - 1)
	return off&mask == 0 && int64(len(p))&mask == 0 && alignedMemory(p, d.block)
}

// read fills p, which is within the device.
func (d *Device) read(p []byte, off int64) (int, error) {
	if d.aligned(p, off) {
		n, err := d.file.ReadAt(p, off)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // shrunk since it was opened
		}
		return n, err
	}
	buf, err := d.bounce.take()
	if err != nil {
		return 0, err
	}
	defer d.bounce.give(buf)
	done := 0
	for done < len(p) {
		start, part := d.window(buf, off+int64(done), len(p)-done)
		if err := d.readBlocks(part, start); err != nil {
			return done, err
		}
		done += copy(p[done:], part[off+int64(done)-start:])
	}
	return done, nil
}

func (d *Device) readBlocks(p []byte, off int64) error {
	n, err := d.file.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// window returns the run of whole blocks around n bytes at off, as much of it as fits
// into buf, and where it starts.
func (d *Device) window(buf []byte, off int64, n int) (start int64, part []byte) {
	block := int64(d.block)
	start = off - off%block
	end := off + int64(n)
	if rest := end % block; rest != 0 {
		end += block - rest
	}
	return start, buf[:min(end-start, int64(len(buf)))]
}

// write writes p, which is within the device.
func (d *Device) write(p []byte, off int64) (int, error) {
	if d.aligned(p, off) {
		d.rmw.RLock()
		defer d.rmw.RUnlock()
		return d.file.WriteAt(p, off)
	}
	buf, err := d.bounce.take()
	if err != nil {
		return 0, err
	}
	defer d.bounce.give(buf)
	block := int64(d.block)
	if off%block == 0 && int64(len(p))%block == 0 {
		d.rmw.RLock() // only the memory is unaligned
		defer d.rmw.RUnlock()
	} else {
		d.rmw.Lock()
		defer d.rmw.Unlock()
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		start, part := d.window(buf, at, len(p)-done)
		lead := at - start
		n := min(int64(len(part))-lead, int64(len(p)-done))
		if err := d.readEdges(part, start, lead, lead+n); err != nil {
			return done, err
		}
		copy(part[lead:], p[done:done+int(n)])
		if _, err := d.file.WriteAt(part, start); err != nil {
			return done, err
		}
		done += int(n)
	}
	return done, nil
}

// readEdges reads the first and the last block of part, unless the bytes from..to will
// overwrite them completely.
func (d *Device) readEdges(part []byte, start, from, to int64) error {
	block := int64(d.block)
	last := int64(len(part)) - block
	if from > 0 || (last == 0 && to < block) {
		if err := d.readBlocks(part[:block], start); err != nil {
			return err
		}
	}
	if last > 0 && to < int64(len(part)) {
		return d.readBlocks(part[last:], start+last)
	}
	return nil
}
