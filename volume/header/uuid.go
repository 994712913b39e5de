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

// FilesystemUUID is the UUID that mkfs is given: made of the volume's identity, so
// that the filesystem of another volume is known by it whatever the header says
// (version 8 of RFC 9562). A rotation changes neither. It is empty for filesystems
// without a UUID of 128 bits.
func (h *Header) FilesystemUUID(fstype string) string {
	switch fstype {
	case "ext4", "f2fs", "xfs", "btrfs":
	default:
		return ""
	}
	sum := sha256.Sum256([]byte("imxcrypt-filesystem-v1\x00" + h.LUKS.UUID + "\x00" + h.LUKS.Label))
	return FormatUUID([16]byte(sum[:16]), 8)
}
