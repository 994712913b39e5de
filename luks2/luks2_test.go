// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/json"
	"io"
	"testing"
)

const (
	testUUID  = "c0ffee00-1234-4567-89ab-0123456789ab"
	otherUUID = "deadbeef-1234-4567-89ab-0123456789ab"
	testSize  = 16 << 20
)

// memory is a device in memory; what follows data reads as zeros.
type memory struct {
	data []byte
	size int64
	// How often each was called.
	reads, writes, flushes int
}

func newMemory(size int) *memory { return &memory{data: make([]byte, size), size: int64(size)} }

// newSparse returns a device of which only the start, 64 KiB, can be written to.
func newSparse(size int64) *memory { return &memory{data: make([]byte, 64<<10), size: size} }

func (m *memory) Size() int64 { return m.size }

func (m *memory) Flush() error { m.flushes++; return nil }

func (m *memory) ReadAt(b []byte, off int64) (int, error) {
	m.reads++
	if off >= m.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), m.size-off))
	clear(b[:n])
	if off < int64(len(m.data)) {
		copy(b[:n], m.data[off:])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	m.writes++
	if off+int64(len(b)) > int64(len(m.data)) {
		return 0, io.ErrShortWrite
	}
	return copy(m.data[off:], b), nil
}

// newHeader returns a header like those of our volumes: no keyslots, one token, one
// segment, one digest, a requirement.
func newHeader(t testing.TB, change ...func(*Options)) *Header {
	t.Helper()
	o := Options{UUID: testUUID, Label: "data", Subsystem: "imxcrypt"}
	for _, c := range change {
		c(&o)
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	h.Metadata.Tokens["0"] = Token{Type: "imxcrypt", Extra: Members{
		"source":     json.RawMessage(`"caam"`),
		"generation": json.RawMessage(`"1"`),
		"blob":       json.RawMessage(`"` + longBase64 + `"`),
		"phase":      json.RawMessage(`"provisioning"`),
		"key_size":   json.RawMessage(`32`),
	}}
	offset := int64(2 << 20)
	if o.Detached {
		offset = 0
	}
	h.Metadata.Segments["0"] = Segment{
		Type: SegmentCrypt, Offset: offset, Size: 8 << 20,
		Encryption: "capi:tk(cbc(aes))-plain64", SectorSize: 4096,
	}
	h.Metadata.Digests["0"] = Digest{Type: "imxcrypt-check", Segments: []string{"0"}, Extra: Members{
		"area_offset": json.RawMessage(`"32768"`),
	}}
	h.Require("imxcrypt-v1")
	return h
}

// longBase64 gives the token about the length of a real one.
const longBase64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3A="

// formatted returns a device with that header.
func formatted(t testing.TB, h *Header) *memory {
	t.Helper()
	m := newSparse(testSize)
	if err := h.Format(m); err != nil {
		t.Fatal(err)
	}
	return m
}
