// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"imxcrypt/caam"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// requestAfter makes the request for the key that follows a header's.
func requestAfter(h *header.Header, s spec.Volume) source.Request {
	return source.Request{UUID: h.LUKS.UUID, Generation: h.Token.Generation + 1, Wrap: caam.Wrap(s.KeyWrap()), KeySize: s.KeySize}
}
