// SPDX-License-Identifier: Apache-2.0

package caam

import "fmt"

// Blob is a tagged blob, exactly as in a .bb file of caam-keygen. It is not
// secret: it opens only on its chip. A Blob comes from [ParseBlob] or an
// engine; engines validate it again before it goes near the kernel.
type Blob []byte

// ParseBlob checks that data is a well-formed tagged blob of the current form and
// returns a copy, with zeros where the hardware never reads: drivers leave old
// memory contents there, which must not be stored. The error is an [*Error] of kind
// Damaged, which names an older form or a black key. Only the hardware knows
// whether a well-formed blob opens.
func ParseBlob(data []byte) (Blob, error) {
	info, err := Inspect(data)
	if err != nil {
		return nil, &Error{Op: "parse blob", Kind: Damaged, Reason: reason(err)}
	}
	switch info.Form {
	case FormBlob:
		blob := append(Blob(nil), data...)
		clear(blob[tagSize+info.RedKeyLen+blobOverhead:])
		return blob, nil
	case FormBlackKey, FormOldBlackKey:
		return nil, &Error{Op: "parse blob", Kind: Damaged,
			Reason: fmt.Sprintf("this is a %s, which is of no use after a power cycle; the blob is the file ending in .bb", info.Form)}
	default:
		return nil, &Error{Op: "parse blob", Kind: Damaged,
			Reason: fmt.Sprintf("this is a %s, which has to be converted first", info.Form)}
	}
}

// Wrap returns what the black key will be encrypted with; empty if b is not a blob.
func (b Blob) Wrap() Wrap {
	t, err := readTag(b)
	if err != nil {
		return ""
	}
	return t.wrap()
}

// RedKeyLen returns the length in bytes of the key in the blob, according to the header;
// 0 if b is not a blob.
func (b Blob) RedKeyLen() int {
	t, err := readTag(b)
	if err != nil {
		return 0
	}
	return int(t.redKeyLen)
}
