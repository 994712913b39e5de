// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"bytes"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// request is one struct dm_ioctl with room for data after it. The memory consists of
// words, so that the structs in it are aligned on every architecture.
type request struct {
	words []uint64
	size  int // bytes
}

// interfaceVersion is the oldest device-mapper interface that has the same
// layout; the kernel answers with its own.
var interfaceVersion = [3]uint32{4, 0, 0}

// newRequest returns a request with room for at least room bytes of data. The
// name has been validated (or comes from the kernel) and fits.
func newRequest(name string, room int) *request {
	size := (unix.SizeofDmIoctl + room + 7) &^ 7
	r := &request{words: make([]uint64, size/8), size: size}
	h := r.header()
	h.Version = interfaceVersion
	h.Data_size = uint32(size)
	h.Data_start = unix.SizeofDmIoctl
	copy(h.Name[:unix.DM_NAME_LEN-1], name)
	return r
}

func (r *request) header() *unix.DmIoctl { return (*unix.DmIoctl)(unsafe.Pointer(&r.words[0])) }

func (r *request) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&r.words[0])), r.size)
}

// data returns the room after the header.
func (r *request) data() []byte { return r.bytes()[unix.SizeofDmIoctl:] }

// output returns what the kernel wrote after the header; empty if the offsets that it
// gives are outside the buffer.
func (r *request) output() []byte {
	h := r.header()
	if int64(h.Data_start) < unix.SizeofDmIoctl || h.Data_start > h.Data_size || int64(h.Data_size) > int64(r.size) {
		return nil
	}
	return r.bytes()[h.Data_start:h.Data_size]
}

func (r *request) wipe() {
	clear(r.words)
	runtime.KeepAlive(r.words)
}

// do issues the ioctl on the calling thread. It repeats a call interrupted by a signal:
// the kernel has undone what it began.
func (m *Mapper) do(cmd uintptr, r *request) error {
	control, err := m.control()
	if err != nil {
		return err
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), cmd, uintptr(unsafe.Pointer(&r.words[0])))
		runtime.KeepAlive(r)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}

// maxOutput limits what is asked of the kernel in one answer.
const maxOutput = 1 << 20

// doOutput issues an ioctl that writes data, with more room until it fits. prepare
// fills in the header each time.
func (m *Mapper) doOutput(cmd uintptr, name string, prepare func(*unix.DmIoctl)) (*request, error) {
	for room := 4096 - unix.SizeofDmIoctl; ; room *= 4 {
		r := newRequest(name, room)
		prepare(r.header())
		if err := m.do(cmd, r); err != nil {
			r.wipe()
			return nil, err
		}
		if r.header().Flags&unix.DM_BUFFER_FULL_FLAG == 0 {
			return r, nil
		}
		r.wipe()
		if room > maxOutput {
			return nil, unix.EOVERFLOW
		}
	}
}

// cString returns the text before the first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return strings.Clone(string(b))
}
