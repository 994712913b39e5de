// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"io"

	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
)

// headerImage is a header area in memory, which package luks2 reads and mends
// as if it stood at the start of a device of size bytes. What lies behind the
// area reads as zeros.
type headerImage struct {
	area []byte
	size int64
}

func (i headerImage) ReadAt(p []byte, off int64) (int, error) {
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

func (i headerImage) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(i.area))-int64(len(p)) {
		return 0, errors.New("write outside of the header area")
	}
	return copy(i.area[off:], p), nil
}

func (i headerImage) Size() int64  { return i.size }
func (i headerImage) Flush() error { return nil }

// headerArea reads the whole header area from what holds it: both copies and
// the check area, the copies mended if one is damaged.
func headerArea(h *header, dev Device) ([]byte, error) {
	area := make([]byte, h.luks.Area())
	if _, err := dev.ReadAt(area, 0); err != nil {
		return nil, fault.New(fault.IOFailed, "read the header area of "+dev.Path(), err)
	}
	if h.copies.Intact() {
		return area, nil
	}
	image, err := h.luks.Image()
	if err != nil {
		return nil, err
	}
	copy(area, image[:2*h.luks.CopySize()])
	return area, nil
}

// sameVolume enforces that a header is that of the volume s means: name, and
// UUID where it is pinned. It is for commands that keep or destroy headers,
// which a wrong cipher in the configuration shall not prevent.
func (h *header) sameVolume(s Spec, path string) error {
	return sameVolume(s, path, luks2.Trace{UUID: h.luks.UUID, Label: h.luks.Label, Subsystem: h.luks.Subsystem})
}

func sameVolume(s Spec, path string, t luks2.Trace) error {
	if t.Label != s.Name || s.UUID != "" && t.UUID != s.UUID {
		return refuse(fault.HeaderMismatch, "%s holds the volume %q with uuid %q, not %q", path, t.Label, t.UUID, s.Name)
	}
	return nil
}
