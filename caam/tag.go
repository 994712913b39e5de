// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"encoding/binary"
	"fmt"
)

// The header of a tagged object (struct header_conf of NXP's tag_object.h): five
// little-endian u32. Nothing authenticates it.
const (
	tagSize  = 20
	tagMagic = 0x5461674f // on disk "OgaT"

	// The only values the keygen driver writes, in black keys and blobs
	// alike: bit 0 is "black", bit 3 "encrypted with CCM". Others are for objects
	// that this kernel interface does not make (red keys, TDKEK keys, secure
	// memory).
	typeECB = 1
	typeCCM = 1 | 1<<3
)

// The sizes of the largest objects, around a red key of 64 bytes. They are also the
// driver's buffer sizes, MAX_BLACK_KEY_SIZE and MAX_BLOB_SIZE.
const (
	MaxBlackKeySize = tagSize + maxRedKey + 12
	MaxBlobSize     = MaxBlackKeySize + blobOverhead
)

type tag struct {
	typ, redKeyLen, objLen uint32
}

// readTag reads the header of data and checks its consistency and the data's length. The
// error text starts with the object's fault.
func readTag(data []byte) (tag, error) {
	if len(data) < tagSize {
		return tag{}, fmt.Errorf("%d bytes are too few for a tagged object's header of %d", len(data), tagSize)
	}
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(data[4*i:]) }
	if word(0) != tagMagic {
		return tag{}, fmt.Errorf("not a tagged object: magic %#08x, want %#08x", word(0), tagMagic)
	}
	if word(1) != 0 {
		return tag{}, fmt.Errorf("tagged object of version %d, only version 0 is known", word(1))
	}
	t := tag{typ: word(2), redKeyLen: word(3), objLen: word(4)}
	if t.typ != typeECB && t.typ != typeCCM {
		return tag{}, fmt.Errorf("tagged object of type %#x, want %#x (ecb) or %#x (ccm)", t.typ, typeECB, typeCCM)
	}
	if t.redKeyLen < minRedKey || t.redKeyLen > maxRedKey {
		return tag{}, fmt.Errorf("key of %d bytes in the header, want %d to %d", t.redKeyLen, minRedKey, maxRedKey)
	}
	if have := uint64(len(data) - tagSize); uint64(t.objLen) != have {
		return tag{}, fmt.Errorf("%d bytes after the header, which says %d: cut short or grown", have, t.objLen)
	}
	return t, nil
}

func (t tag) wrap() Wrap {
	if t.typ == typeCCM {
		return CCM
	}
	return ECB
}

func (t tag) size() int { return tagSize + int(t.objLen) }

func (t tag) isBlob() bool { return t.size() == BlobSize(int(t.redKeyLen)) }

func (t tag) isBlackKey() bool { return t.size() == BlackKeySize(t.wrap(), int(t.redKeyLen)) }

// appendTag appends a header for an object of objLen bytes.
func appendTag(to []byte, w Wrap, redKeyLen, objLen int) []byte {
	typ := uint32(typeECB)
	if w == CCM {
		typ = typeCCM
	}
	for _, word := range []uint32{tagMagic, 0, typ, uint32(redKeyLen), uint32(objLen)} {
		to = binary.LittleEndian.AppendUint32(to, word)
	}
	return to
}
