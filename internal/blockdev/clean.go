// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrDirty means that the page cache may hold unwritten data of a range.
var ErrDirty = errors.New("something in memory is not written yet")

// ReadClean is ReadAt for a caller that must not cause writes. Before a read with
// O_DIRECT the kernel writes back the range's dirty pages: the metadata of a mounted
// filesystem, through whatever key the device has. If that could happen, the error
// wraps ErrDirty, and nothing was read.
//
// It misses pages dirtied between the check and the read; the kernel itself writes
// back older ones.
func (d *Device) ReadClean(p []byte, off int64) (int, error) {
	if d.isBlock && d.dirty(off, int64(len(p))) {
		return 0, d.ioError("read", len(p), off, ErrDirty)
	}
	return d.ReadAt(p, off)
}

// dirty reports whether the page cache may have something to write back. Linux 6.5 counts
// it, with cachestat(2). Older kernels show it by a read that must not wait: since 5.12
// it fails with EAGAIN if something is dirty, before that if anything is cached.
// Otherwise dm-crypt does not support it (EOPNOTSUPP), or it succeeds.
func (d *Device) dirty(off, length int64) bool {
	fd := d.file.Fd()
	defer runtime.KeepAlive(d.file)
	length = max(length, 1)
	window := [2]uint64{uint64(off), uint64(length)}
	var counts struct{ cached, dirty, writeback, evicted, recentlyEvicted uint64 }
	_, _, errno := unix.Syscall6(unix.SYS_CACHESTAT, fd, uintptr(unsafe.Pointer(&window)), uintptr(unsafe.Pointer(&counts)), 0, 0, 0)
	if errno == 0 {
		return counts.dirty > 0
	}
	if errno != unix.ENOSYS || !d.direct {
		return true
	}
	buf, err := d.bounce.take()
	if err != nil {
		return true
	}
	defer d.bounce.give(buf)
	start, part := d.window(buf, off, int(length))
	_, err = unix.Preadv2(int(fd), [][]byte{part}, start, unix.RWF_NOWAIT)
	// Any other failure is the device's; the read itself will report it.
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL)
}
