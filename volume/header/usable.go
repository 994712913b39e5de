// SPDX-License-Identifier: Apache-2.0

package header

import (
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
)

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

// CheckFirstKey refuses a header whose phase cannot be true: a key made by a rotation has
// data under it.
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
