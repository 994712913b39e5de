// SPDX-License-Identifier: Apache-2.0

// Package secret keeps key material in memory that is never swapped, never
// dumped, and wiped after use.
package secret

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Buffer holds one secret in pages of its own: outside Go's heap, so that the garbage
// collector never copies them, locked against swapping, excluded from core dumps and
// zeroed in a forked child.
//
// The creator of a Buffer, or the caller of a function documented to hand it over, owns
// it and calls Wipe, usually deferred right away. A Buffer must not be copied. Its
// methods may be called from several goroutines, but the slice that Bytes returns must
// not be used once Wipe has begun.
type Buffer struct {
	mu   sync.Mutex
	mem  []byte // whole pages, as mapped
	used int
}

// New returns an all-zero Buffer of n bytes. It fails with ENOMEM or EAGAIN
// if RLIMIT_MEMLOCK does not allow the pages to be locked: a secret is never in
// memory that could be swapped out.
func New(n int) (*Buffer, error) {
	if n <= 0 {
		return nil, fmt.Errorf("secret of %d bytes: %w", n, unix.EINVAL)
	}
	page := unix.Getpagesize()
	size := (n + page - 1) / page * page
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map memory for a secret: %w", err)
	}
	if err := unix.Mlock(mem); err != nil {
		return nil, errors.Join(lockRefused("lock memory for a secret", err), unix.Munmap(mem))
	}
	if err := unix.Madvise(mem, unix.MADV_DONTDUMP); err != nil {
		return nil, errors.Join(fmt.Errorf("keep a secret out of core dumps: %w", err), unix.Munmap(mem))
	}
	// Kernels before 4.14 do not support it. There, a child does not get the pages only
	// because we never fork without exec.
	_ = unix.Madvise(mem, unix.MADV_WIPEONFORK)
	return &Buffer{mem: mem, used: n}, nil
}

// Bytes returns the secret itself, valid until Wipe, and nil afterwards. The slice is the
// locked memory, not a copy: do not append to it, convert it to a string or let it
// outlive the Buffer.
func (b *Buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mem == nil {
		return nil
	}
	return b.mem[:b.used:b.used]
}

// Len returns the secret's size in bytes, 0 after Wipe.
func (b *Buffer) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Truncate shortens the secret to n bytes and clears the rest, for calls that fill a
// buffer of maximum size and return the actual size.
func (b *Buffer) Truncate(n int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n < 0 || n > b.used {
		return fmt.Errorf("secret of %d bytes cut to %d: %w", b.used, n, unix.EINVAL)
	}
	clear(b.mem[n:b.used])
	b.used = n
	return nil
}

// Wipe overwrites the secret and frees the memory. It may be called more
// than once, and on a nil Buffer.
func (b *Buffer) Wipe() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mem == nil {
		return
	}
	clear(b.mem)
	runtime.KeepAlive(b.mem)
	// The pages are ours and mapped, so munmap cannot fail; if it did, they are zero
	// already.
	_ = unix.Munmap(b.mem)
	b.mem, b.used = nil, 0
}

// String keeps a Buffer printed by mistake from showing its content.
func (b *Buffer) String() string { return "[secret]" }

// GoString does the same for %#v.
func (b *Buffer) GoString() string { return "[secret]" }
