// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"fmt"
	"io"
)

// newUUID draws a random UUID (RFC 9562, version 4).
func (m *Manager) newUUID() (string, error) {
	var u [16]byte
	if _, err := io.ReadFull(m.sys.Rand, u[:]); err != nil {
		return "", fmt.Errorf("draw a uuid: %w", err)
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16]), nil
}
