// SPDX-License-Identifier: Apache-2.0

package header

import (
	"crypto/sha256"
	"fmt"
)

// FormatUUID sets the version and the variant of RFC 9562.
func FormatUUID(u [16]byte, version byte) string {
	u[6] = u[6]&0x0f | version<<4
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// FilesystemUUID returns the UUID to give to mkfs (version 8 of RFC 9562). It is derived
// from the volume's identity, so that another volume's filesystem is recognized by it
// whatever the header says. A rotation changes neither. It is empty for filesystems
// without a 128-bit UUID.
func (h *Header) FilesystemUUID(fstype string) string {
	switch fstype {
	case "ext4", "f2fs", "xfs", "btrfs":
	default:
		return ""
	}
	sum := sha256.Sum256([]byte("imxcrypt-filesystem-v1\x00" + h.LUKS.UUID + "\x00" + h.LUKS.Label))
	return FormatUUID([16]byte(sum[:16]), 8)
}
