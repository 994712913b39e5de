// SPDX-License-Identifier: Apache-2.0

package caam

import "fmt"

// Blob is a tagged blob, exactly as in a .bb file of caam-keygen. It is no
// secret: it opens only on its chip. A Blob comes from [ParseBlob] or an
// engine; engines validate it again before it goes near the kernel.
type Blob []byte

// ParseBlob checks that data is a well-formed tagged blob of the current form
// and returns a copy of it. The error is an [*Error] of kind Damaged, which
// names an older form or a black key by its name. Only the hardware can tell
// whether a well-formed blob opens.
func ParseBlob(data []byte) (Blob, error) {
	info, err := Inspect(data)
	if err != nil {
		return nil, &Error{Op: "parse blob", Kind: Damaged, Reason: reason(err)}
	}
	switch info.Form {
	case FormBlob:
		return append(Blob(nil), data...), nil
	case FormBlackKey, FormOldBlackKey:
		return nil, &Error{Op: "parse blob", Kind: Damaged,
			Reason: fmt.Sprintf("this is a %s, which is of no use after a power cycle; the blob is the file ending in .bb", info.Form)}
	default:
		return nil, &Error{Op: "parse blob", Kind: Damaged,
			Reason: fmt.Sprintf("this is a %s, which has to be converted first", info.Form)}
	}
}

// Wrap is what the black key will be encrypted with. Empty for bytes that are
// no blob.
func (b Blob) Wrap() Wrap {
	t, err := readTag(b)
	if err != nil {
		return ""
	}
	return t.wrap()
}

// RedKeyLen is the length in bytes of the key within, as the header says. 0
// for bytes that are no blob.
func (b Blob) RedKeyLen() int {
	t, err := readTag(b)
	if err != nil {
		return 0
	}
	return int(t.redKeyLen)
}
