// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	pageSize = 4096 // bytes that are copied at the first write to them
	maxDepth = 16   // layers that a read may have to look through
)

type page = [pageSize]byte

// Image is a disk in memory. It takes memory only for what differs from the image below
// it. Its methods may be called from several goroutines. Flush does nothing; with it, an
// Image can be used as a device.
type Image struct {
	size  int64
	empty *page // what was never written reads like this

	mu     sync.RWMutex
	frozen bool
	below  *Image // frozen; nil for the lowest layer
	depth  int
	pages  map[int64]*page
}

// NewImage returns a disk of size bytes that reads as zeros.
func NewImage(size int64) *Image { return NewFilledImage(size, 0) }

// NewFilledImage returns a disk that reads like erased storage, as 0x00 or 0xFF.
func NewFilledImage(size int64, fill byte) *Image {
	return &Image{size: size, empty: (*page)(bytes.Repeat([]byte{fill}, pageSize)), pages: map[int64]*page{}}
}

// Overlay returns a new disk with the same content, which costs nothing. The one below
// cannot be written to any more.
func (im *Image) Overlay() *Image {
	im.mu.Lock()
	im.frozen = true
	im.mu.Unlock()
	below := im
	if im.depth >= maxDepth {
		below = im.flatten()
	}
	return &Image{size: im.size, empty: im.empty, below: below, depth: below.depth + 1, pages: map[int64]*page{}}
}

// flatten returns one frozen layer with the content of all layers, whose pages it shares.
func (im *Image) flatten() *Image {
	flat := &Image{size: im.size, empty: im.empty, frozen: true, pages: map[int64]*page{}}
	for layer := im; layer != nil; layer = layer.below {
		for n, p := range layer.pages {
			if _, ok := flat.pages[n]; !ok {
				flat.pages[n] = p
			}
		}
	}
	return flat
}

// Size returns the size in bytes.
func (im *Image) Size() int64 { return im.size }

// Flush does nothing.
func (im *Image) Flush() error { return nil }

// FlushRange does nothing.
func (im *Image) FlushRange(_, _ int64) error { return nil }

// find returns the page of that number, or nil if it was never written.
func (im *Image) find(n int64) *page {
	for layer := im; layer != nil; layer = layer.below {
		if p, ok := layer.pages[n]; ok {
			return p
		}
	}
	return nil
}

// ReadAt reads like a file of the image's size.
func (im *Image) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read before the start of the disk")
	}
	im.mu.RLock()
	defer im.mu.RUnlock()
	want := len(b)
	if off >= im.size {
		return 0, io.EOF
	}
	b = b[:min(int64(want), im.size-off)]
	done := 0
	for done < len(b) {
		at := off + int64(done)
		part := b[done:min(len(b), done+int(pageSize-at%pageSize))]
		if p := im.find(at / pageSize); p != nil {
			transfer(part, p[at%pageSize:])
		} else {
			transfer(part, im.empty[at%pageSize:])
		}
		done += len(part)
	}
	if done < want {
		return done, io.EOF
	}
	return done, nil
}

// WriteAt writes inside the image's size.
func (im *Image) WriteAt(b []byte, off int64) (int, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.frozen {
		return 0, errors.New("write to a disk image that has an overlay")
	}
	if off < 0 || off+int64(len(b)) > im.size {
		return 0, fmt.Errorf("write of %d bytes at %d to a disk of %d", len(b), off, im.size)
	}
	for done := 0; done < len(b); {
		at := off + int64(done)
		n := at / pageSize
		p, own := im.pages[n]
		if !own {
			p = new(page)
			switch old := im.find(n); {
			case at%pageSize == 0 && len(b)-done >= pageSize: // overwritten as a whole
			case old != nil:
				*p = *old
			default:
				*p = *im.empty
			}
			im.pages[n] = p
		}
		done += transfer(p[at%pageSize:], b[done:])
	}
	return len(b), nil
}

// Bytes returns the whole content.
func (im *Image) Bytes() []byte {
	b := make([]byte, im.size)
	if im.empty[0] != 0 {
		if _, err := im.ReadAt(b, 0); err != nil {
			panic(err) // the range is the image's own
		}
		return b
	}
	// Most disks are mostly empty, and b is zero already.
	im.mu.RLock()
	defer im.mu.RUnlock()
	for n, p := range im.flatten().pages {
		transfer(b[n*pageSize:], p[:])
	}
	return b
}
