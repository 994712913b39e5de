// SPDX-License-Identifier: Apache-2.0

package dmtest

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
)

// File is an open mapping. Offsets and lengths need not be aligned; unaligned blocks are
// read, changed and written back.
type File struct {
	k        *Kernel
	m        *mapping
	path     string
	write    bool
	closing  sync.Once
	closeErr error
}

// Open opens a mapping by /dev/dm-N, or by /dev/mapper/NAME if it has been announced;
// otherwise the error is ENOENT. A read-only mapping cannot be opened for writing
// (EACCES).
func (k *Kernel) Open(file string, write bool) (*File, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.lookPath(file)
	if m == nil {
		return nil, &fs.PathError{Op: "open", Path: file, Err: unix.ENOENT}
	}
	if write && m.liveRO {
		return nil, &fs.PathError{Op: "open", Path: file, Err: unix.EACCES}
	}
	m.opens++
	return &File{k: k, m: m, path: file, write: write}, nil
}

func (k *Kernel) lookPath(file string) *mapping {
	dir, name := path.Split(path.Clean(file))
	switch dir {
	case "/dev/mapper/":
		if minor, ok := k.nodes[name]; ok {
			return k.byMinor(minor)
		}
	case "/dev/":
		digits, ok := strings.CutPrefix(name, "dm-")
		if n, err := strconv.ParseUint(digits, 10, 20); ok && err == nil {
			return k.byMinor(uint32(n))
		}
	}
	return nil
}

// Path returns the path that the file was opened by.
func (f *File) Path() string { return f.path }

// Number returns the mapping's number.
func (f *File) Number() dmcrypt.Number { return f.k.number(f.m) }

// ReadOnly reports whether the mapping cannot be written.
func (f *File) ReadOnly() bool {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	return f.m.liveRO
}

// Size returns the size of the live table, in bytes.
func (f *File) Size() int64 {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	if f.m.live == nil {
		return 0
	}
	return int64(f.m.live.text.Sectors()) * dmcrypt.SectorBytes
}

// LogicalBlockSize returns the largest encryption sector in the live table, in bytes.
func (f *File) LogicalBlockSize() int {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	return int(f.m.blockSize())
}

func (m *mapping) blockSize() int64 {
	size := int64(dmcrypt.SectorBytes)
	if m.live != nil {
		for _, p := range m.live.parts {
			if p.crypt != nil {
				size = max(size, p.crypt.sector)
			}
			if p.lower != nil {
				size = max(size, p.lower.blockSize())
			}
		}
	}
	return size
}

// Close closes the file; it may be called more than once.
func (f *File) Close() error {
	f.closing.Do(func() {
		f.k.mu.Lock()
		defer f.k.mu.Unlock()
		f.k.release(f.m)
	})
	return f.closeErr
}

// Flush flushes everything under the mapping. It waits for a suspended mapping, here or
// below.
func (f *File) Flush() error {
	return f.k.request(f.m, func(t *table) error {
		for _, p := range t.parts {
			if p.flush != nil {
				p = *p.flush
			}
			switch {
			case p.lower != nil:
				if err := (&File{k: f.k, m: p.lower, write: true}).Flush(); err != nil {
					return err
				}
			case p.below != nil:
				if flusher, ok := p.below.(interface{ Flush() error }); ok {
					if err := flusher.Flush(); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(b []byte, off int64) (int, error) {
	n := clipLength(len(b), off, f.Size())
	if n < 0 {
		return 0, &fs.PathError{Op: "read", Path: f.path, Err: unix.EINVAL}
	}
	var err error
	if f.aligned(off, n) {
		err = f.k.request(f.m, func(t *table) error { return f.k.transfer(t, b[:n], off, false) })
	} else {
		var buf []byte
		var skip int
		if buf, skip, err = f.around(off, n); err == nil {
			copy(b, buf[skip:skip+n])
		}
	}
	if err != nil {
		return 0, &fs.PathError{Op: "read", Path: f.path, Err: err}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt; beyond the end it fails with ENOSPC.
func (f *File) WriteAt(b []byte, off int64) (int, error) {
	fail := func(err error) (int, error) {
		return 0, &fs.PathError{Op: "write", Path: f.path, Err: err}
	}
	if !f.write {
		return fail(unix.EBADF)
	}
	if n := clipLength(len(b), off, f.Size()); n < 0 {
		return fail(unix.EINVAL)
	} else if n < len(b) {
		return fail(unix.ENOSPC)
	}
	buf, first := b, off
	if !f.aligned(off, len(b)) {
		around, skip, err := f.around(off, len(b))
		if err != nil {
			return fail(err)
		}
		copy(around[skip:], b)
		buf, first = around, off-int64(skip)
	}
	err := f.k.request(f.m, func(t *table) error { return f.k.transfer(t, buf, first, true) })
	if err != nil {
		return fail(err)
	}
	return len(b), nil
}

func clipLength(n int, off, size int64) int {
	if off < 0 {
		return -1
	}
	if off >= size {
		return 0
	}
	return int(min(int64(n), size-off))
}

func (f *File) aligned(off int64, n int) bool {
	unit := int64(f.LogicalBlockSize())
	return off%unit == 0 && int64(n)%unit == 0
}

// around reads the whole blocks around a piece; skip is where the piece begins.
func (f *File) around(off int64, n int) (buf []byte, skip int, err error) {
	unit := int64(f.LogicalBlockSize())
	first := off / unit * unit
	last := min((off+int64(n)+unit-1)/unit*unit, f.Size())
	if n == 0 {
		last = first
	}
	buf = make([]byte, max(last-first, 0))
	err = f.k.request(f.m, func(t *table) error { return f.k.transfer(t, buf, first, false) })
	return buf, int(off - first), err
}

// request runs I/O on a mapping's live table, which stays until it is done. On a
// suspended mapping it waits.
func (k *Kernel) request(m *mapping, do func(*table) error) error {
	k.mu.Lock()
	for m.suspended && !m.gone {
		k.changed.Wait()
	}
	if m.gone || m.live == nil {
		k.mu.Unlock()
		return unix.EIO
	}
	m.inFlight++
	t := m.live
	k.mu.Unlock()

	err := do(t)

	k.mu.Lock()
	m.inFlight--
	k.changed.Broadcast()
	k.mu.Unlock()
	return err
}

// transfer reads or writes through the targets.
func (k *Kernel) transfer(t *table, buf []byte, off int64, write bool) error {
	for _, p := range t.parts {
		from, to := max(off, p.start), min(off+int64(len(buf)), p.start+p.length)
		if from >= to {
			continue
		}
		if err := k.transferPart(p, buf[from-off:to-off], from-p.start, write); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kernel) transferPart(p part, buf []byte, at int64, write bool) error {
	switch {
	case p.fail:
		return unix.EIO
	case p.zero:
		if !write {
			clear(buf)
		}
		return nil
	}
	if p.crypt != nil && (at%p.crypt.sector != 0 || int64(len(buf))%p.crypt.sector != 0) {
		return unix.EIO // as crypt_map does
	}
	if write && p.crypt != nil {
		buf = slices.Clone(buf) // the caller's stays plain text
		if err := p.crypt.crypt(buf, at, true); err != nil {
			return err
		}
	}
	if err := k.transferBelow(p, buf, p.offset+at, write); err != nil {
		return err
	}
	if !write && p.crypt != nil {
		return p.crypt.crypt(buf, at, false)
	}
	return nil
}

func (k *Kernel) transferBelow(p part, buf []byte, at int64, write bool) error {
	if p.lower != nil {
		return k.request(p.lower, func(t *table) error { return k.transfer(t, buf, at, write) })
	}
	var n int
	var err error
	if write {
		n, err = p.below.WriteAt(buf, at)
	} else {
		n, err = p.below.ReadAt(buf, at)
	}
	if n == len(buf) {
		return nil
	}
	if err == nil || err == io.EOF {
		return fmt.Errorf("dmtest: backing moved %d of %d bytes: %w", n, len(buf), unix.EIO)
	}
	return err
}
