// SPDX-License-Identifier: Apache-2.0

package header

import (
	"crypto/sha256"
	"fmt"

	"imxcrypt/internal/fault"
	"imxcrypt/volume/spec"
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

// FilesystemSeen reports whether the filesystem that was seen is the recorded one.
func (h *Header) FilesystemSeen() bool {
	want := h.Token.Filesystem
	return h.Seen != nil && h.Seen.Verified && h.Seen.Type == want.Type && h.Seen.UUID == want.UUID && want.UUID != ""
}

// OwnFilesystemSeen reports whether the filesystem that was seen was made for this
// volume: it has the UUID that only the volume's identity gives.
func (h *Header) OwnFilesystemSeen() bool {
	own := h.FilesystemUUID(h.Token.Filesystem.Type)
	return h.Seen != nil && h.Seen.Verified && h.Seen.Type == h.Token.Filesystem.Type && h.Seen.UUID == own && own != ""
}

// Unbound reports whether nothing in the header says which key belongs to it: it is
// detached, and from an earlier version or just adopted. Anyone who can write the file
// can make it open another volume of this chip.
func (h *Header) Unbound() bool {
	return !h.Check.Exists() && h.Token.Phase == PhaseReady && !h.InPlaintext()
}

// PermitUnbound refuses a header without a check that names a filesystem of another
// identity, unless the configuration allows it. Otherwise, anyone who can write the file
// could remove the check and name the key and the filesystem of another volume. The
// filesystem has been seen before the call.
func (h *Header) PermitUnbound(s spec.Volume) error {
	if h.Check.Exists() || h.OwnFilesystemSeen() || s.AllowUnboundHeader {
		return nil
	}
	return fault.Newf(fault.HeaderMismatch, "the detached header has no check of its key, and the filesystem %s was not made for this volume: someone changed the header, or an earlier version adopted the volume; in the second case allow_unbound_header: true opens it until `imxcrypt provision %s` has added the check", h.Token.Filesystem.UUID, s.Name)
}
