// SPDX-License-Identifier: Apache-2.0

// Package klog reads what the kernel logged during an operation. device-mapper and
// the crypto drivers return an errno and give the reason only in the kernel log.
package klog

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Path is the kernel log's device.
const Path = "/dev/kmsg"

const (
	// maxRecords bounds one read: a driver that floods the log must not keep us
	// reading.
	maxRecords = 1000
	// maxLog bounds a read of the whole log: the largest kernel buffer
	// (CONFIG_LOG_BUF_SHIFT 25) holds some 10^5 records.
	maxLog = 1 << 18
)

// Mark is a position in the log. No record follows the zero Mark.
//
// A Mark costs an open and a seek; nothing is read until Since. Only one goroutine may
// use it, and must close it.
type Mark struct {
	fd   int
	open bool
}

// Now marks the current end of the log at path. It never fails: if the log cannot
// be read (no permission under kernel.dmesg_restrict, no such device in a
// container), no record follows the mark. An unreadable reason must not prevent
// the operation.
func Now(path string) Mark {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return Mark{}
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		// A regular file and the device can both seek; without a position we would
		// show old messages.
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
// which keep is true, oldest first; none if the log cannot be read. It reads the
// whole log, which takes some milliseconds on a small board: use it rarely.
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
			// EPIPE: records were overwritten; the next read continues after them.
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

// Close releases the mark. It may be called more than once.
func (m *Mark) Close() {
	if m.open {
		m.open = false
		// Nothing was written, so a failing close loses nothing.
		_ = unix.Close(m.fd)
	}
}
