// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"sync"
	"unsafe"
)

// bufferAlign suits O_DIRECT on any logical block up to 4096 bytes.
const bufferAlign = 4096

// alignedBuffer returns n bytes at an address that O_DIRECT accepts. The garbage
// collector does not move heap objects, so the address stays aligned.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+bufferAlign)
	skip := -uintptr(unsafe.Pointer(&b[0])) & (bufferAlign - 1)
	return b[skip:][:n:n]
}

// readFull reads all of p or fails.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// route is one copy: length bytes from one view to another, or to none (0) if only their
// checksums are needed.
type route struct {
	from, to       View
	fromOff, toOff int64
	length         int64
	// sums receives the checksum of each copied sector; it is nil if they are not needed.
	sums checksums
}

// checksums are the CRC-32C of each sector of a range. Lanes compute them in parallel,
// and most processors have an instruction for them, so digesting a zone is no slower than
// copying it. A SHA-256 of the whole zone would be.
type checksums []byte

func newChecksums(length int64) checksums {
	return make(checksums, length/SectorSize*crc32.Size)
}

// of stores the checksums of p, which begins off bytes after the first sector.
func (s checksums) of(p []byte, off int64) {
	table := crc32.MakeTable(crc32.Castagnoli)
	for at := off / SectorSize * crc32.Size; len(p) > 0; at += crc32.Size {
		binary.BigEndian.PutUint32(s[at:], crc32.Checksum(p[:SectorSize], table))
		p = p[SectorSize:]
	}
}

// part returns the checksums of length bytes from off on.
func (s checksums) part(off, length int64) checksums {
	return s[off/SectorSize*crc32.Size:][:length/SectorSize*crc32.Size]
}

// digest returns the digest that a record holds.
func (s checksums) digest() [sha256.Size]byte { return sha256.Sum256(s) }

// copier moves bytes with a few lanes. Each lane reads a unit and writes it, so that one
// lane's write overlaps another's read. The buffers are all the memory that a rotation
// uses.
type copier struct {
	views *Views
	align int64
	unit  int64
	// short is true if programs wait behind the copies: each copy then has a quarter of
	// the length, and half as many run.
	short bool
	bufs  [][]byte
}

func newCopier(v *Views, align int64, lanes, unit int) *copier {
	c := &copier{views: v, align: align, unit: int64(unit), bufs: make([][]byte, lanes)}
	for i := range c.bufs {
		c.bufs[i] = alignedBuffer(unit)
	}
	return c
}

// wipe clears the user's data from the buffers.
func (c *copier) wipe() {
	for _, b := range c.bufs {
		clear(b)
	}
}

// run does one copy. If copies fail, it returns the error with the lowest offset, after
// every lane has stopped.
func (c *copier) run(r route) error {
	bufs, parts, unit := c.bufs, int64(len(c.bufs)), c.unit
	if c.short {
		bufs, parts, unit = bufs[:(len(bufs)+1)/2], 4*parts, max(roundDown(unit/4, c.align), c.align)
	}
	share := max(roundDown(r.length/parts, c.align), smallestUnit)
	j := &job{route: r, copier: c, unit: min(unit, share)}
	var wg sync.WaitGroup
	for _, buf := range bufs {
		wg.Go(func() { j.lane(buf) })
	}
	wg.Wait()
	return j.err
}

// job is the state that the lanes of one copy share.
type job struct {
	route
	*copier
	unit  int64
	mu    sync.Mutex
	next  int64 // first byte no lane has taken
	err   error
	errAt int64
}

// lane copies units until none is left or one has failed.
func (j *job) lane(buf []byte) {
	for {
		off, n := j.take()
		if n == 0 {
			return
		}
		if err := j.copyUnit(off, buf[:n]); err != nil {
			j.fail(off, err)
			return
		}
	}
}

func (j *job) take() (off, n int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return 0, 0
	}
	off, n = j.next, min(j.unit, j.length-j.next)
	j.next += n
	return off, n
}

func (j *job) fail(off int64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil || off < j.errAt {
		j.err, j.errAt = err, off
	}
}

func (j *job) copyUnit(off int64, p []byte) error {
	if err := j.read(j.from, p, j.fromOff+off); err != nil {
		return err
	}
	if j.sums != nil {
		j.sums.of(p, off)
	}
	if j.to == 0 {
		return nil
	}
	return j.write(j.to, p, j.toOff+off)
}

// read reads through a view. A failed read is repeated block by block: the fault may have
// been transient, and if not, the error names the exact block.
func (c *copier) read(v View, p []byte, off int64) error {
	if readFull(c.views.reader(v), p, off) == nil {
		return nil
	}
	return c.byBlock(p, off, func(b []byte, at int64) error {
		if err := readFull(c.views.reader(v), b, at); err != nil {
			return &IOError{Op: "read", View: v, Offset: at, Err: err}
		}
		return nil
	})
}

// write writes through a view, and repeats a failed write as read does.
func (c *copier) write(v View, p []byte, off int64) error {
	if _, err := c.views.writer(v).WriteAt(p, off); err == nil {
		return nil
	}
	return c.byBlock(p, off, func(b []byte, at int64) error {
		if _, err := c.views.writer(v).WriteAt(b, at); err != nil {
			return &IOError{Op: "write", View: v, Offset: at, Err: err}
		}
		return nil
	})
}

func (c *copier) byBlock(p []byte, off int64, do func([]byte, int64) error) error {
	for len(p) > 0 {
		n := min(int64(len(p)), c.align)
		if err := do(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}
