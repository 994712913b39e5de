// SPDX-License-Identifier: Apache-2.0

package fsprobe

import (
	"encoding/binary"
	"fmt"
	"io"

	"imxcrypt/internal/blank"
)

// page is the unit that everything is read in: a multiple of every logical block and
// crypt sector, so that no layer below has to widen a read.
const page = 4096

// source reads from the device in whole pages and keeps what it read: several probers
// read the same first page.
type source struct {
	r     io.ReaderAt
	size  int64
	pages map[int64][]byte
}

func newSource(r io.ReaderAt, size int64) *source {
	return &source{r: r, size: size, pages: map[int64][]byte{}}
}

// maxSpan bounds what one structure may make us read.
const maxSpan = 128 << 10

// at returns n bytes at off, which may span pages. ok is false if they extend beyond the
// end of the device.
func (s *source) at(off int64, n int) (b []byte, ok bool, err error) {
	if off < 0 || n <= 0 || n > maxSpan || off > s.size || int64(n) > s.size-off {
		return nil, false, nil
	}
	first, last := off/page, (off+int64(n)-1)/page
	if first == last {
		p, err := s.page(first)
		if err != nil {
			return nil, false, err
		}
		lead := off - first*page
		return p[lead : lead+int64(n)], true, nil
	}
	for i := first; i <= last; i++ {
		p, err := s.page(i)
		if err != nil {
			return nil, false, err
		}
		b = append(b, p...)
	}
	return b[off-first*page:][:n], true, nil
}

// page returns one page; the last one of the device may be short.
func (s *source) page(i int64) ([]byte, error) {
	if p, ok := s.pages[i]; ok {
		return p, nil
	}
	p := make([]byte, min(page, s.size-i*page))
	n, err := s.r.ReadAt(p, i*page)
	if n < len(p) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read superblock, %d bytes at %d: %w", len(p), i*page, err)
	}
	s.pages[i] = p
	return p, nil
}

// ahead reads the first n pages at once. If that fails, each is read when it is needed,
// which shows which one cannot be read.
func (s *source) ahead(n int64) {
	if s.size < n*page {
		return
	}
	all := make([]byte, n*page)
	if got, _ := s.r.ReadAt(all, 0); got < len(all) {
		return
	}
	for i := range n {
		s.pages[i] = all[i*page : (i+1)*page]
	}
}

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// formatUUID prints the 16 bytes of a UUID in their order on disk. All zeros mean no
// UUID.
func formatUUID(b []byte) string {
	if blank.Zero(b) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// cString returns the text before the first NUL.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// power2 reports whether v is a power of two within lo..hi.
func power2[T uint32 | uint64](v, lo, hi T) bool { return v >= lo && v <= hi && v&(v-1) == 0 }
