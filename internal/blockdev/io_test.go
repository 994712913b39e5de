// SPDX-License-Identifier: Apache-2.0

// These tests need no kernel of their own, so they need not run on an emulated one.
//go:build !vm

package blockdev

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

// newFile makes a file of pseudo-random bytes.
func newFile(t *testing.T, size int) (path string, content []byte) {
	t.Helper()
	content = make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(content)
	path = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func open(t *testing.T, path string, f Flags) *Device {
	t.Helper()
	d, err := System{}.Open(path, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// direct opens a file so that it uses the bounce buffers in blocks, as a block device
// does, on a filesystem that need not support O_DIRECT.
func direct(t *testing.T, path string, block int) *Device {
	t.Helper()
	d := open(t, path, Flags{Write: true})
	d.direct, d.block = true, block
	return d
}

func TestRegularFile(t *testing.T) {
	t.Parallel()
	path, content := newFile(t, 10000)
	d := open(t, path, Flags{Direct: true, Exclusive: true})
	if d.IsBlock() || d.Number() != (Number{}) || d.Size() != 10000 || d.LogicalBlockSize() != 1 ||
		d.PreferredEraseSize() != 0 || !d.ReadOnly() || d.Path() != path {
		t.Errorf("regular file seen as %+v", d)
	}
	got := make([]byte, 10000)
	if n, err := d.ReadAt(got, 0); n != 10000 || err != nil || !bytes.Equal(got, content) {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
	if _, err := d.WriteAt([]byte{1}, 0); fault.CodeOf(err) != fault.DeviceReadOnly || !errors.Is(err, unix.EBADF) {
		t.Errorf("write to a file opened for reading: %v", err)
	}
}

// Whatever the offset and length, a read returns what the file holds, and a write changes
// nothing else.
func TestAnyAlignment(t *testing.T) {
	t.Parallel()
	const size = 3*bounceSize + 8192
	for _, block := range []int{512, 4096} {
		path, content := newFile(t, size)
		d := direct(t, path, block)
		rng, noise := rand.New(rand.NewPCG(7, uint64(block))), rand.NewChaCha8([32]byte{7})
		for i := range 400 {
			off := rng.Int64N(size)
			n := min(rng.IntN(3*block), size-int(off))
			switch i % 20 {
			case 0: // longer than the buffer
				off, n = rng.Int64N(int64(block)*2), 2*bounceSize+rng.IntN(block)
			case 1: // aligned at the front
				off -= off % int64(block)
				n = min(n, size-int(off))
			case 2: // aligned at both ends
				off -= off % int64(block)
				n = min(block*(1+rng.IntN(3)), size-int(off))
			}
			p := make([]byte, n)
			if got, err := d.ReadAt(p, off); got != n || err != nil || !bytes.Equal(p, content[off:][:n]) {
				t.Fatalf("block %d: read %d at %d: %d, %v", block, n, off, got, err)
			}
			_, _ = noise.Read(p)
			copy(content[off:], p)
			if got, err := d.WriteAt(p, off); got != n || err != nil {
				t.Fatalf("block %d: write %d at %d: %d, %v", block, n, off, got, err)
			}
		}
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		onDisk, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(onDisk, content) {
			t.Errorf("block %d: file differs from what was written", block)
		}
	}
}

func TestReadAcrossTheEnd(t *testing.T) {
	t.Parallel()
	path, content := newFile(t, 8192)
	for _, d := range []*Device{open(t, path, Flags{}), direct(t, path, 512)} {
		p := make([]byte, 100)
		if n, err := d.ReadAt(p, 8150); n != 42 || err != io.EOF || !bytes.Equal(p[:n], content[8150:]) {
			t.Errorf("across the end: %d, %v", n, err)
		}
		if n, err := d.ReadAt(p, 8192); n != 0 || err != io.EOF {
			t.Errorf("at the end: %d, %v", n, err)
		}
		if n, err := d.ReadAt(p, 1<<62); n != 0 || err != io.EOF {
			t.Errorf("far behind the end: %d, %v", n, err)
		}
		if n, err := d.ReadAt(nil, 5); n != 0 || err != nil {
			t.Errorf("nothing: %d, %v", n, err)
		}
		if _, err := d.ReadAt(p, -1); !errors.Is(err, unix.EINVAL) {
			t.Errorf("before the start: %v", err)
		}
	}
}

func TestWriteStaysInside(t *testing.T) {
	t.Parallel()
	path, content := newFile(t, 4096)
	d := open(t, path, Flags{Write: true})
	for _, c := range []struct {
		off int64
		n   int
	}{{4096, 1}, {4000, 97}, {-1, 1}, {0, 4097}, {1<<63 - 1, 1}} {
		if n, err := d.WriteAt(make([]byte, c.n), c.off); n != 0 || !errors.Is(err, ErrRange) {
			t.Errorf("%d bytes at %d: %d, %v", c.n, c.off, n, err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("file changed or grown: %v", err)
	}
}

// Unaligned writes to one block must all be there afterwards.
func TestParallelWritesToOneBlock(t *testing.T) {
	t.Parallel()
	path, _ := newFile(t, 4096)
	d := direct(t, path, 4096)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if _, err := d.WriteAt(bytes.Repeat([]byte{byte(i)}, 64), int64(64*i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := make([]byte, 4096)
	if _, err := d.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	for i := range 4096 {
		if got[i] != byte(i/64) {
			t.Fatalf("byte %d is %d, a write was lost", i, got[i])
		}
	}
}

func TestZeroAndDiscard(t *testing.T) {
	t.Parallel()
	path, content := newFile(t, 1<<20)
	d := open(t, path, Flags{Write: true})
	if err := d.Zero(5000, 600000); err != nil {
		t.Fatal(err)
	}
	clear(content[5000:605000])
	got := make([]byte, 1<<20)
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
		t.Errorf("after Zero: %v", err)
	}
	if err := d.Discard(0, 1<<20, true); !errors.Is(err, unix.EOPNOTSUPP) || fault.CodeOf(err) != fault.DeviceUnsuitable {
		t.Errorf("secure discard of a file: %v", err)
	}
	for _, r := range [][2]int64{{-1, 10}, {0, 0}, {0, 1<<20 + 1}, {1 << 20, 1}, {1 << 62, 1 << 62}} {
		if err := d.Zero(r[0], r[1]); !errors.Is(err, ErrRange) {
			t.Errorf("Zero(%d, %d): %v", r[0], r[1], err)
		}
		if err := d.Discard(r[0], r[1], false); !errors.Is(err, ErrRange) {
			t.Errorf("Discard(%d, %d): %v", r[0], r[1], err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		is   error
		code fault.Code
	}{
		{dir, ErrNotBlock, fault.DeviceUnsuitable},
		{fifo, ErrNotBlock, fault.DeviceUnsuitable},
		{"/dev/null", ErrNotBlock, fault.DeviceUnsuitable},
		{filepath.Join(dir, "missing"), fs.ErrNotExist, fault.DeviceMissing},
	} {
		d, err := System{}.Open(c.path, Flags{Write: true})
		if d != nil || !errors.Is(err, c.is) || fault.CodeOf(err) != c.code {
			t.Errorf("Open(%s) = %v, %v (fault %s)", c.path, d, err, fault.CodeOf(err))
		}
	}
}

func TestClosedDevice(t *testing.T) {
	t.Parallel()
	path, _ := newFile(t, 4096)
	d := direct(t, path, 512)
	p := make([]byte, 10)
	if _, err := d.ReadAt(p, 1); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadAt(p, 1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}
