// SPDX-License-Identifier: Apache-2.0

package header

import (
	"errors"
	"io"

	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume/spec"
)

// Image is a header area in memory, which package luks2 reads and repairs as if it were
// at the start of a device of size bytes. What follows the area reads as zeros.
type Image struct {
	area []byte
	size int64
}

// NewImage returns the image of a device of size bytes that begins with area.
func NewImage(area []byte, size int64) Image { return Image{area, size} }

// ReadAt implements io.ReaderAt.
func (i Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= i.size {
		return 0, io.EOF
	}
	short := off+int64(len(p)) > i.size
	if short {
		p = p[:i.size-off]
	}
	clear(p)
	if off < int64(len(i.area)) {
		copy(p, i.area[off:])
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// WriteAt implements io.WriterAt, within the header area.
func (i Image) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(i.area))-int64(len(p)) {
		return 0, errors.New("write outside of the header area")
	}
	return copy(i.area[off:], p), nil
}

// Size returns the size of the device in bytes.
func (i Image) Size() int64 { return i.size }

// Flush does nothing: the image is memory.
func (i Image) Flush() error { return nil }

// AreaOf reads the whole header area from dev: both copies and the check area. If one
// copy is damaged, it is repaired in the result.
func AreaOf(h *Header, dev Device) ([]byte, error) {
	area := make([]byte, h.LUKS.Area())
	if _, err := dev.ReadAt(area, 0); err != nil {
		return nil, fault.New(fault.IOFailed, "read the header area of "+dev.Path(), err)
	}
	if h.Copies.Intact() {
		return area, nil
	}
	image, err := h.LUKS.Image()
	if err != nil {
		return nil, err
	}
	copy(area, image[:2*h.LUKS.CopySize()])
	return area, nil
}

// SameVolume enforces that the header is that of the volume in s: it checks the name, and
// the UUID if s sets it. It is for commands that keep or destroy headers, which a wrong
// cipher in the configuration must not prevent.
func (h *Header) SameVolume(s spec.Volume, path string) error {
	return SameVolume(s, path, luks2.Trace{UUID: h.LUKS.UUID, Label: h.LUKS.Label, Subsystem: h.LUKS.Subsystem})
}

// SameVolume is like [Header.SameVolume], for a header of which only a trace was found.
func SameVolume(s spec.Volume, path string, t luks2.Trace) error {
	if t.Label != s.Name || s.UUID != "" && t.UUID != s.UUID {
		return fault.Newf(fault.HeaderMismatch, "%s holds the volume %q with uuid %q, not %q", path, t.Label, t.UUID, s.Name)
	}
	return nil
}
