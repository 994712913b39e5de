// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"imxcrypt/internal/fsprobe"
)

// identity is what LABEL= and UUID= are compared with.
type identity struct{ uuid, label string }

// The binary header of LUKS, from the LUKS2 On-Disk Format Specification 1.1, 2.1: magic,
// version (big endian), label and UUID. LUKS1 has its UUID in the same place and no
// label. The second copy of LUKS2 has its own magic and follows the first one, which has
// one of a few sizes.
const (
	luksVersionOffset = 6
	luksLabelOffset   = 24
	luksLabelSize     = 48
	luksUUIDOffset    = 168
	luksUUIDSize      = 40
	luksOffsetOffset  = 256 // where this copy is, big endian, bytes
	luksPeek          = 4096
	luksFirstCopy     = 16 << 10
	luksLastCopy      = 4 << 20
)

var (
	luksMagic       = []byte("LUKS\xba\xbe")
	luksSecondMagic = []byte("SKUL\xba\xbe")
)

// identify reads a device's identity from its LUKS header, or otherwise from its
// filesystem. It is empty if neither is recognised.
func identify(r io.ReaderAt, size int64) (identity, error) {
	r = &firstPage{ReaderAt: r}
	if id, ok, err := luksIdentity(r, size, 0); err != nil || ok {
		return id, err
	}
	sb, err := fsprobe.Read(r, size)
	switch {
	case err == nil:
		return identity{uuid: sb.UUID, label: sb.Label}, nil
	case errors.Is(err, fsprobe.ErrNone), errors.As(err, new(*fsprobe.ChecksumError)):
		// A damaged superblock's identity is not reliable.
		return identity{}, nil
	}
	return identity{}, err
}

// identifyByCopy reads the second copy of a LUKS2 header, so that a volume whose
// first copy is damaged is still found and can be repaired.
func identifyByCopy(r io.ReaderAt, size int64) (identity, error) {
	for off := int64(luksFirstCopy); off <= luksLastCopy; off *= 2 {
		if id, ok, err := luksIdentity(r, size, off); err != nil || ok {
			return id, err
		}
	}
	return identity{}, nil
}

// firstPage caches the first page of a device, which is always read first.
type firstPage struct {
	io.ReaderAt
	page []byte
}

func (f *firstPage) ReadAt(p []byte, off int64) (int, error) {
	if off != 0 || len(p) != luksPeek {
		return f.ReaderAt.ReadAt(p, off)
	}
	if f.page == nil {
		page := make([]byte, luksPeek)
		if n, err := f.ReaderAt.ReadAt(page, 0); n < len(page) {
			return n, err
		}
		f.page = page
	}
	return copy(p, f.page), nil
}

// luksIdentity reads the copy of a LUKS header at off; ok is false if there is no
// header.
func luksIdentity(r io.ReaderAt, size, off int64) (id identity, ok bool, err error) {
	if size < luksPeek || off > size-luksPeek {
		return identity{}, false, nil
	}
	b := make([]byte, luksPeek)
	if err := readFull(r, b, off, size); err != nil {
		return identity{}, false, err
	}
	version := binary.BigEndian.Uint16(b[luksVersionOffset:])
	id.uuid = cString(b[luksUUIDOffset:][:luksUUIDSize])
	switch {
	case off == 0 && bytes.HasPrefix(b, luksMagic) && version == 1:
		return id, true, nil
	case off == 0 && bytes.HasPrefix(b, luksMagic) && version == 2,
		off != 0 && bytes.HasPrefix(b, luksSecondMagic) && version == 2:
		if binary.BigEndian.Uint64(b[luksOffsetOffset:]) != uint64(off) {
			return identity{}, false, nil // stray bytes of a header
		}
		id.label = cString(b[luksLabelOffset:][:luksLabelSize])
		return id, true, nil
	}
	return identity{}, false, nil
}

// cString returns the text before the first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
