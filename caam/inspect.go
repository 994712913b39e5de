// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Form is one of the file formats of this chip family's keys.
type Form string

const (
	FormBlob     Form = "blob"
	FormBlackKey Form = "black key"
	// FormOldBlackKey and FormOldBlob are from the first kernels of 2020: the key follows
	// a tag of 16 bytes without red_key_len, the blob follows only its type, a u32.
	FormOldBlackKey Form = "black key with the 16-byte tag of 2020"
	FormOldBlob     Form = "blob with the 4-byte header of 2020"
	// FormHexBlob is from the 4.14 kernels: ":hex:" and the bare blob.
	FormHexBlob Form = "blob of the :hex: form of 4.14 kernels"
)

// Info is what an object's bytes alone reveal.
type Info struct {
	Form Form
	Wrap Wrap
	// RedKeyLen is the length in bytes of the AES key in it.
	RedKeyLen int
	// Size is the size of the whole object in bytes.
	Size int
	// Convertible reports whether [Convert] can convert it.
	Convertible bool
}

const (
	oldTagSize    = 16
	oldBlobHeader = 4
	hexPrefix     = ":hex:"
)

// Inspect identifies a file of caam-keygen or one of its predecessors. The error is an
// [*Error] of kind Damaged with the first problem. Every form must also have its exact
// size.
func Inspect(data []byte) (Info, error) {
	switch {
	case len(data) == 0:
		return Info{}, damaged("the file is empty")
	case bytes.HasPrefix(data, []byte(hexPrefix)):
		return inspectHex(data)
	case len(data) >= 4 && binary.LittleEndian.Uint32(data) == tagMagic:
		return inspectTagged(data)
	default:
		return inspectOldBlob(data)
	}
}

func inspectTagged(data []byte) (Info, error) {
	if info, ok := inspectOldBlackKey(data); ok {
		return info, nil
	}
	t, err := readTag(data)
	if err != nil {
		return Info{}, damaged(err.Error())
	}
	info := Info{Wrap: t.wrap(), RedKeyLen: int(t.redKeyLen), Size: len(data)}
	switch {
	case t.isBlob():
		info.Form = FormBlob
	case t.isBlackKey():
		info.Form = FormBlackKey
	default:
		return Info{}, damaged(fmt.Sprintf("%d bytes around a key of %d: a %s black key has %d, a blob %d",
			len(data), t.redKeyLen, t.wrap(), BlackKeySize(t.wrap(), info.RedKeyLen), BlobSize(info.RedKeyLen)))
	}
	return info, nil
}

// inspectOldBlackKey recognizes the 16-byte tag of magic, version, type and black key
// length. No current object passes as one: its fourth word is a red key's length, never
// the whole length less 16.
func inspectOldBlackKey(data []byte) (Info, bool) {
	if len(data) < oldTagSize {
		return Info{}, false
	}
	version, typ := binary.LittleEndian.Uint32(data[4:]), binary.LittleEndian.Uint32(data[8:])
	length := int64(binary.LittleEndian.Uint32(data[12:]))
	if version != 0 || length != int64(len(data)-oldTagSize) {
		return Info{}, false
	}
	info := Info{Form: FormOldBlackKey, Size: len(data)}
	switch typ {
	case typeECB:
		// That kernel padded the key to the block, and used it padded.
		if length != 16 && length != 32 {
			return Info{}, false
		}
		info.Wrap, info.RedKeyLen = ECB, int(length)
	case typeCCM:
		info.Wrap, info.RedKeyLen = CCM, int(length)-12
		if !IsAESKeySize(info.RedKeyLen) {
			return Info{}, false
		}
	default:
		return Info{}, false
	}
	return info, true
}

// inspectOldBlob recognizes blobs with only their type in front. The kernel that made
// them sealed the black key's whole length: for ECB that is the (padded) red key, for CCM
// 12 bytes more than the key.
func inspectOldBlob(data []byte) (Info, error) {
	if len(data) < oldBlobHeader {
		return Info{}, damaged(fmt.Sprintf("%d bytes are too few for anything known", len(data)))
	}
	sealed := len(data) - oldBlobHeader - blobOverhead
	info := Info{Form: FormOldBlob, Size: len(data)}
	switch typ := binary.LittleEndian.Uint32(data); {
	case typ == typeECB && (sealed == 16 || sealed == 32):
		info.Wrap, info.RedKeyLen, info.Convertible = ECB, sealed, true
	case typ == typeCCM && IsAESKeySize(sealed-12):
		info.Wrap, info.RedKeyLen = CCM, sealed-12
	default:
		return Info{}, damaged(fmt.Sprintf("%d bytes that start with %x are neither a tagged object (%x) nor an older form",
			len(data), data[:oldBlobHeader], appendTag(nil, ECB, 0, 0)[:4]))
	}
	return info, nil
}

// inspectHex recognizes the blobs of 4.14 kernels: despite the name, binary after the
// prefix. Those kernels made only ECB black keys.
func inspectHex(data []byte) (Info, error) {
	n := len(data) - len(hexPrefix) - blobOverhead
	if !IsAESKeySize(n) {
		return Info{}, damaged(fmt.Sprintf("a %s blob of %d bytes after the prefix, want 64, 72 or 80", hexPrefix, len(data)-len(hexPrefix)))
	}
	return Info{Form: FormHexBlob, Wrap: ECB, RedKeyLen: n, Size: len(data), Convertible: true}, nil
}

func damaged(reason string) *Error {
	return &Error{Op: "inspect", Kind: Damaged, Reason: reason}
}

// reason extracts the reason from an error that is wrapped again, so that it is not
// repeated.
func reason(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Reason != "" {
		return e.Reason
	}
	return err.Error()
}
