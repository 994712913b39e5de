// SPDX-License-Identifier: Apache-2.0

// Package klog reads what the kernel said while something was tried. The
// device-mapper and the crypto drivers return an errno and tell the reason in
// the kernel log only.
package klog

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Path is where the kernel log is read.
const Path = "/dev/kmsg"

const (
	// maxRecords bounds one look: a driver that floods the log while we wait
	// must not keep us reading.
	maxRecords = 1000
	// maxLog bounds a look at the whole log: the greatest buffer that kernels
	// are built with (CONFIG_LOG_BUF_SHIFT 25) holds some 10^5 records.
	maxLog = 1 << 18
)

// Mark is a place in the log. The zero Mark is at no place, and no record
// follows it.
//
// A Mark costs an open and a seek; nothing is read until Since. It is used by
// one goroutine and closed by whoever asked for it.
type Mark struct {
	fd   int
	open bool
}

// Now marks the present end of the log at path. It never fails: where the log
// is not to be had (no permission under kernel.dmesg_restrict, no such device
// in a container), the mark is one that nothing follows, since a reason that
// cannot be read must not keep an operation from being tried.
func Now(path string) Mark {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return Mark{}
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		// A regular file and the device can both seek; without a place we
		// would show old messages.
		_ = unix.Close(fd)
		return Mark{}
	}
	return Mark{fd: fd, open: true}
}

// Since returns the records logged after the mark, or after the last call,
// for which keep is true (all, if keep is nil), oldest first. Records that the
// kernel overwrote before they were read are missing without notice.
func (m *Mark) Since(keep func(Record) bool) []Record { return m.read(keep, maxRecords) }

// All returns the records of the log at path that the kernel still has and for
// which keep is true, oldest first; none where the log is not to be had. It
// reads the whole log, some milliseconds on a small board: it is for questions
// that are asked rarely.
func All(path string, keep func(Record) bool) []Record {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	m := Mark{fd: fd, open: true}
	defer m.Close()
	return m.read(keep, maxLog)
}

func (m *Mark) read(keep func(Record) bool, limit int) []Record {
	if !m.open {
		return nil
	}
	var out []Record
	buf := make([]byte, maxRecord)
	for range limit {
		n, err := unix.Read(m.fd, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EPIPE):
			// EPIPE: records were overwritten; the next read goes on behind them.
			continue
		case err != nil || n <= 0:
			// EAGAIN is the end.
			return out
		}
		r, err := ParseRecord(buf[:n])
		if err != nil {
			continue
		}
		if keep == nil || keep(r) {
			out = append(out, r)
		}
	}
	return out
}

// Close gives the mark up. It may be called more than once.
func (m *Mark) Close() {
	if m.open {
		m.open = false
		// Nothing was written; a failing close loses nothing.
		_ = unix.Close(m.fd)
	}
}
