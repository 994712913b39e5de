// SPDX-License-Identifier: Apache-2.0

package caam_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/fault"
)

// A key whose header does not fit what follows never gets to the driver, which would read
// past its end, or overwrite kernel memory.
func TestCheckKey(t *testing.T) {
	t.Parallel()
	for _, wrap := range []caam.Wrap{caam.ECB, caam.CCM} {
		key, blob, err := caamtest.RandomChip().Create(context.Background(), wrap, 32)
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		good := key.Bytes()
		if err := caam.CheckKey(good); err != nil {
			t.Errorf("a good %s key: %v", wrap, err)
		}
		set := func(at int, value uint32) []byte {
			bad := bytes.Clone(good)
			binary.LittleEndian.PutUint32(bad[at:], value)
			return bad
		}
		other := map[caam.Wrap]uint32{caam.ECB: 9, caam.CCM: 1}[wrap]
		for name, bad := range map[string][]byte{
			"another magic": set(0, 1), "another version": set(4, 1),
			"the other wrap": set(8, other), "red": set(8, 0), "a blob": set(8, 3), "TDKEK": set(8, 5), "secure memory": set(8, 0x11),
			"a red key of 16 bytes": set(12, 16), "of 64": set(12, 64), "of 1": set(12, 1),
			"an object of 1024 bytes": set(16, 1024), "of none": set(16, 0), "without an end": set(16, 1<<32-1),
			"cut short": good[:len(good)-16], "grown": append(bytes.Clone(good), 0), "nothing": nil, "a header": good[:20],
			"the blob": blob,
		} {
			if err := caam.CheckKey(bad); fault.CodeOf(err) != fault.BlobDamaged {
				t.Errorf("%s key, %s: %v (code %s)", wrap, name, err, fault.CodeOf(err))
			}
		}
	}
	// Well-formed, but useless: the driver seals keys that tk() does not take.
	for _, n := range []int{17, 64} {
		object := appendObject(n)
		if err := caam.CheckKey(object); err == nil {
			t.Errorf("a key of %d bytes was taken", n)
		}
	}
}

// appendObject returns a CCM black key around n bytes.
func appendObject(n int) []byte {
	size := caam.BlackKeySize(caam.CCM, n)
	var b []byte
	for _, word := range []uint32{0x5461674f, 0, 9, uint32(n), uint32(size - 20)} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return append(b, make([]byte, size-20)...)
}

// What follows the bytes that the hardware uses is old kernel memory. It is not kept, and
// the blob still opens.
func TestParseBlobDropsWhatTheHardwareDoesNotRead(t *testing.T) {
	t.Parallel()
	for _, wrap := range []caam.Wrap{caam.ECB, caam.CCM} {
		for _, n := range []int{16, 24, 32} {
			chip := caamtest.RandomChip()
			_, made, err := chip.Create(context.Background(), wrap, n)
			if err != nil {
				t.Fatal(err)
			}
			const header, overhead = 20, 48
			raw := bytes.Clone(made)
			copy(raw[header+n+overhead:], "remnant of the heap")
			blob, err := caam.ParseBlob(raw)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(blob, made) || bytes.Contains(blob, []byte("remnant")) || len(blob) != caam.BlobSize(n) {
				t.Errorf("%s %d: %q", wrap, n, blob[header+n:])
			}
			if converted, err := caam.Convert(raw); err != nil || !bytes.Equal(converted, made) {
				t.Errorf("%s %d: converted to %q, %v", wrap, n, converted, err)
			}
			if _, err := chip.Import(context.Background(), blob); err != nil {
				t.Errorf("%s %d: %v", wrap, n, err)
			}
		}
	}
}
