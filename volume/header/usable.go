// SPDX-License-Identifier: Apache-2.0

package header

import (
	"errors"

	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume/spec"
)

// Unbound reports whether nothing in the header says which key belongs to it: it is
// detached, and from an earlier version or just adopted. Anyone who can write the file
// can make it open another volume of this chip.
func (h *Header) Unbound() bool {
	return !h.Check.Exists() && h.Token.Phase == PhaseReady && !h.InPlaintext()
}

// Keepable refuses a header of which a copy would be worthless.
func (h *Header) Keepable() error {
	if h.UnderRotation() {
		return fault.Newf(fault.RotationUnderWay, "a rotation is under way: a copy of this header would be wrong as soon as it continues")
	}
	switch h.Token.Phase {
	case PhaseReady:
		return nil
	case PhaseErasing:
		return fault.Newf(fault.EraseStarted, "the volume was being erased, and that was interrupted")
	}
	return fault.Newf(fault.ProvisioningStarted, "provisioning was interrupted; there is no data in the volume yet")
}

// UnderRotation reports whether the header names two keys, or a key and plaintext.
func (h *Header) UnderRotation() bool { return len(h.LUKS.Metadata.Segments) > 1 }

// FilesystemSeen reports whether the filesystem that was seen is the recorded one.
func (h *Header) FilesystemSeen() bool {
	want := h.Token.Filesystem
	return h.Seen != nil && h.Seen.Verified && h.Seen.Type == want.Type && h.Seen.UUID == want.UUID && want.UUID != ""
}

// OwnFilesystemSeen reports whether the filesystem that was seen was made for this volume: it has
// the UUID that only the volume's identity gives.
func (h *Header) OwnFilesystemSeen() bool {
	own := h.FilesystemUUID(h.Token.Filesystem.Type)
	return h.Seen != nil && h.Seen.Verified && h.Seen.Type == h.Token.Filesystem.Type && h.Seen.UUID == own && own != ""
}

// PermitUnbound refuses a header without a check that names a filesystem of another identity,
// unless the configuration allows it. Otherwise, anyone who can write the file could
// remove the check and name the key and the filesystem of another volume. The filesystem
// has been seen before the call.
func (h *Header) PermitUnbound(s spec.Volume) error {
	if h.Check.Exists() || h.OwnFilesystemSeen() || s.AllowUnboundHeader {
		return nil
	}
	return fault.Newf(fault.HeaderMismatch, "the detached header has no check of its key, and the filesystem %s was not made for this volume: somebody changed the header, or an earlier version adopted the volume; then allow_unbound_header: true opens it, until `imxcrypt provision %s` has added the check", h.Token.Filesystem.UUID, s.Name)
}

// CheckFirstKey refuses a header whose phase cannot be true: a key made by a rotation has data
// under it.
func (h *Header) CheckFirstKey() error {
	if err := h.NotRolledBack(); err != nil {
		return err
	}
	if h.Token.Generation > 1 {
		return fault.Newf(fault.HeaderRolledBack, "the header of uuid %q says that provisioning was interrupted, but its key is of generation %d: the header was changed", h.LUKS.UUID, h.Token.Generation)
	}
	return nil
}

// Recoverable refuses a header whose recovery copy would open only a part of the data, or
// nothing.
func (h *Header) Recoverable() error {
	if !h.Token.Recovery.Made() {
		return fault.Newf(fault.RecoveryMissing, "the volume %q has no recovery copy of its key", h.LUKS.Label)
	}
	if err := h.NotRolledBack(); err != nil {
		return err
	}
	return h.Keepable()
}

// RepairOn repairs a damaged copy of this header on its device.
func (h *Header) RepairOn(c *Storage) error {
	there, err := Read(c)
	if err != nil {
		return err
	}
	if there.LUKS.UUID != h.LUKS.UUID {
		return fault.Newf(fault.HeaderMismatch, "%s holds the header of uuid %q where %q was read", c.Header.Path(), there.LUKS.UUID, h.LUKS.UUID)
	}
	_, err = luks2.Repair(c.Header)
	return err
}

// SpecOfKey returns the configuration for this header's key. With source auto it has the
// key's own source. During a rotation the older key's source and cipher may differ from
// the configuration; [Header.MatchesRotating] has allowed that.
func (h *Header) SpecOfKey(s spec.Volume) spec.Volume {
	if h.Next == nil {
		return s.For(h.Token.Source, h.Segment.Encryption)
	}
	return h.SpecAsStored(s)
}

// MatchesRotating compares the headers of a rotation under way with the configuration:
// the new key must be as configured.
func (h *Header) MatchesRotating(s spec.Volume) error {
	if h.Next == nil || h.Decrypting() {
		return h.Matches(s)
	}
	if h.Encrypting() {
		return h.Next.Matches(s)
	}
	return errors.Join(h.Next.Matches(s), h.Matches(h.SpecAsStored(s)))
}
