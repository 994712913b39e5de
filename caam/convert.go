// SPDX-License-Identifier: Apache-2.0

package caam

import "fmt"

// Convert converts a blob of an older form, and returns a current one unchanged. The
// result opens only where the old one did; import it before trusting it. The sealed bytes
// are the same in all forms: Convert prepends the header and pads to the driver's size
// with zeros, which the hardware never reads.
//
// The error is an [*Error]: Damaged for an unknown form, BadArgument for one that
// cannot be converted.
func Convert(data []byte) (Blob, error) {
	info, err := Inspect(data)
	if err != nil {
		return nil, &Error{Op: "convert", Kind: Damaged, Reason: reason(err)}
	}
	if info.Form == FormBlob {
		return ParseBlob(data)
	}
	if !info.Convertible {
		return nil, &Error{Op: "convert", Kind: BadArgument, Reason: fmt.Sprintf("a %s cannot be converted: %s", info.Form, why(info))}
	}
	header := oldBlobHeader
	if info.Form == FormHexBlob {
		header = len(hexPrefix)
	}
	size := BlobSize(info.RedKeyLen)
	blob := appendTag(make(Blob, 0, size), info.Wrap, info.RedKeyLen, size-tagSize)
	blob = append(blob, data[header:]...)
	return append(blob, make([]byte, size-len(blob))...), nil
}

func why(info Info) string {
	switch info.Form {
	case FormBlackKey, FormOldBlackKey:
		return "it holds no sealed key, only one of this power cycle"
	default:
		return "its kernel sealed the ccm black key, nonce and MAC included"
	}
}
