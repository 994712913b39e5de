// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"fmt"
	"io"

	"imxcrypt/volume/header"
)

// newUUID draws a random UUID (RFC 9562, version 4).
func (m *Manager) newUUID() (string, error) {
	var u [16]byte
	if _, err := io.ReadFull(m.sys.Rand, u[:]); err != nil {
		return "", fmt.Errorf("draw a uuid: %w", err)
	}
	return header.FormatUUID(u, 4), nil
}
