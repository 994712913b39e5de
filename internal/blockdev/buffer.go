// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bounceSize is the size in bytes of a bounce buffer: a good request size for an eMMC,
// and small enough for a board. Its pages are allocated only when touched.
const bounceSize = 256 << 10

// buffers lends page-aligned memory, as O_DIRECT requires. It is safe for
// concurrent use.
type buffers struct {
	mu     sync.Mutex
	free   [][]byte
	closed bool
}

func (b *buffers) take() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.free); n > 0 {
		buf := b.free[n-1]
		b.free = b.free[:n-1]
		return buf, nil
	}
	return unix.Mmap(-1, 0, bounceSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

func (b *buffers) give(buf []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		// The device was closed during an operation.
		_ = unix.Munmap(buf)
		return
	}
	b.free = append(b.free, buf)
}

func (b *buffers) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	var errs []error
	for _, buf := range b.free {
		errs = append(errs, unix.Munmap(buf))
	}
	b.free = nil
	return errors.Join(errs...)
}

// alignedMemory reports whether p starts at a multiple of align, a power of two.
func alignedMemory(p []byte, align int) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))&uintptr(align-1) == 0
}
