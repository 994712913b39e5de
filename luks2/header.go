// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
)

// Default sizes in bytes.
const (
	DefaultCopySize   = 16 << 10 // of one copy
	DefaultHeaderArea = 1 << 20  // of both copies and the keyslots area
)

// Header is a LUKS2 header in memory. It has no connection to a device: a change takes
// effect when it is written. A Header must not be used by several goroutines at once.
type Header struct {
	// SeqID is the sequence number of the header as read or last written.
	SeqID            uint64
	UUID             string
	Label, Subsystem string
	Metadata         Metadata

	salts    [2][lenSalt]byte // of the first and second copy
	copySize int64
	kind     placeKind
	data     int64 // size of the device a detached header belongs to; negative: unknown
}

// Options are what New needs. The zero value of a size means its default.
type Options struct {
	UUID             string // required, 8-4-4-4-12 hexadecimal digits
	Label, Subsystem string // at most MaxLabel bytes, no zero byte
	// HeaderArea is the size in bytes of both copies and the keyslots area
	// together: a multiple of 4096.
	HeaderArea int64
	// CopySize is the size in bytes of one copy: 16 KiB, 32 KiB … 4 MiB.
	CopySize int64
	// Detached says that the header is separate from the data it describes, so segments
	// may begin at 0.
	Detached bool
}

// New makes a header without segments. It is not valid, and cannot be written, until the
// caller has given it a segment, and each crypt segment a digest. Errors are
// *InvalidError, or those of the system's random numbers.
func New(o Options) (*Header, error) {
	if o.CopySize == 0 {
		o.CopySize = DefaultCopySize
	}
	if o.HeaderArea == 0 {
		o.HeaderArea = DefaultHeaderArea
	}
	h := &Header{UUID: strings.ToLower(o.UUID), Label: o.Label, Subsystem: o.Subsystem, copySize: o.CopySize, data: -1}
	if o.Detached {
		h.kind = detached
	}
	if !slices.Contains(headerSizes[:], o.CopySize) {
		return nil, invalid(RuleHeaderSize, "a copy of %d bytes: not 16 KiB, 32 KiB … 4 MiB", o.CopySize)
	}
	h.Metadata = Metadata{
		Keyslots: map[string]Members{}, Tokens: map[string]Token{},
		Segments: map[string]Segment{}, Digests: map[string]Digest{},
		Config: Config{KeyslotsSize: o.HeaderArea - 2*o.CopySize},
	}
	if err := checkKeyslotsSize(h.Metadata.Config.KeyslotsSize); err != nil {
		return nil, err
	}
	if err := h.checkFields(); err != nil {
		return nil, err
	}
	for i := range h.salts {
		if err := newSalt(&h.salts[i]); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func newSalt(salt *[lenSalt]byte) error {
	if _, err := rand.Read(salt[:]); err != nil {
		return fmt.Errorf("random salt for a LUKS2 header: %w", err)
	}
	return nil
}

// checkFields validates the texts of the binary header.
func (h *Header) checkFields() error {
	for _, f := range []struct{ name, text string }{{"label", h.Label}, {"subsystem", h.Subsystem}} {
		if len(f.text) > MaxLabel || strings.ContainsRune(f.text, 0) {
			return invalid(RuleText, "%s %q: more than %d bytes, or a zero byte", f.name, f.text, MaxLabel)
		}
	}
	if !validUUID(h.UUID) {
		return invalid(RuleUUID, "%q is not a UUID", h.UUID)
	}
	return nil
}

// CopySize returns the size in bytes of one copy.
func (h *Header) CopySize() int64 { return h.copySize }

// Area returns the size in bytes of both copies and the keyslots area: the first byte
// that data may have on a device that holds its own header.
func (h *Header) Area() int64 { return 2*h.copySize + h.Metadata.Config.KeyslotsSize }

// KeyslotsArea returns the range behind the copies, in bytes: the header's own place for
// binary data.
func (h *Header) KeyslotsArea() (offset, size int64) {
	return 2 * h.copySize, h.Metadata.Config.KeyslotsSize
}

// Detached reports whether the header is separate from its data.
func (h *Header) Detached() bool { return h.kind == detached }

// Clone returns a deep copy, for changes that may be discarded.
func (h *Header) Clone() *Header {
	c := *h
	c.Metadata = h.Metadata.Clone()
	return &c
}

// Validate checks the header as it would be written. size is that of what will hold it,
// in bytes. Errors are *InvalidError.
func (h *Header) Validate(size int64) error {
	_, err := h.encode(h.place(size))
	return err
}

// CheckData checks whether the segments are inside a device of size bytes. It is for a
// detached header, whose reader did not know that size. Errors are *InvalidError.
func (h *Header) CheckData(size int64) error {
	var last interval
	for _, id := range h.Metadata.SegmentIDs() {
		s := h.Metadata.Segments[id]
		if iv := (interval{"segment " + id, s.Offset, s.End(1<<63 - 1)}); !s.Backup() && iv.end > last.end {
			last = iv
		}
	}
	return checkBounds(last, size)
}

// encode returns the JSON text after checking it as a reader would: what would be refused
// when read is not written.
func (h *Header) encode(at place) ([]byte, error) {
	if err := h.checkFields(); err != nil {
		return nil, err
	}
	text, err := h.Metadata.encode(h.copySize - binarySize)
	if err != nil {
		return nil, err
	}
	area := make([]byte, h.copySize-binarySize)
	if len(text) >= len(area) {
		return nil, invalid(RuleJSONSize, "the text has %d bytes, its area %d with the zero byte behind", len(text), len(area))
	}
	copy(area, text)
	if _, err := decodeMetadata(area, at); err != nil {
		return nil, err
	}
	return text, nil
}

// place returns where the header is, or is to be written.
func (h *Header) place(size int64) place {
	p := place{size: size, kind: h.kind, data: h.data}
	if h.kind == attached {
		p.data = size
	}
	return p
}

// binary returns the binary header of one copy.
func (h *Header) binary(secondary bool) binaryHeader {
	b := binaryHeader{size: h.copySize, seqID: h.SeqID, label: h.Label, subsystem: h.Subsystem, uuid: h.UUID, salt: h.salts[0]}
	if secondary {
		b.salt = h.salts[1]
	}
	return b
}

// Image returns the whole header area as bytes, with a keyslots area of zeros: the
// content of a new file with a detached header, or of a backup. A header without a
// sequence number gets the first one.
func (h *Header) Image() ([]byte, error) {
	if h.SeqID == 0 {
		h.SeqID = 1
	}
	text, err := h.encode(place{size: h.Area(), kind: h.kind, data: h.data})
	if err != nil {
		return nil, err
	}
	image := make([]byte, h.Area())
	copy(image, encodeCopy(h.binary(false), text, false))
	copy(image[h.copySize:], encodeCopy(h.binary(true), text, true))
	return image, nil
}

// Requires reports whether the header has that mandatory requirement.
func (h *Header) Requires(name string) bool {
	return slices.Contains(h.Metadata.Config.Mandatory, name)
}

// Require adds a mandatory requirement: readers that do not know it leave the volume
// alone.
func (h *Header) Require(name string) {
	if !h.Requires(name) {
		h.Metadata.Config.Mandatory = append(h.Metadata.Config.Mandatory, name)
	}
}

// Unrequire removes a mandatory requirement.
func (h *Header) Unrequire(name string) {
	h.Metadata.Config.Mandatory = slices.DeleteFunc(slices.Clone(h.Metadata.Config.Mandatory), func(n string) bool { return n == name })
	if len(h.Metadata.Config.Mandatory) == 0 {
		h.Metadata.Config.Mandatory = nil
	}
}

// CheckRequirements returns a *RequirementError with the mandatory requirements that are
// not among the known ones. A header with such a requirement must not be used.
func (h *Header) CheckRequirements(known ...string) error {
	var unknown []string
	for _, n := range h.Metadata.Config.Mandatory {
		if !slices.Contains(known, n) {
			unknown = append(unknown, n)
		}
	}
	if unknown != nil {
		return &RequirementError{Names: unknown}
	}
	return nil
}
