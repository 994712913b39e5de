// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"strings"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/spec"
)

// WithoutWipedKey replaces a key in the clear in a suspended table with the wanted
// reference: the kernel shows such a key after `cryptsetup luksSuspend` has wiped it. The
// table is reloaded before anything passes through it.
func WithoutWipedKey(live, wanted dmcrypt.Table) dmcrypt.Table {
	if len(live) != 1 || len(wanted) != 1 {
		return live
	}
	is, ok1 := live[0].(dmcrypt.Crypt)
	want, ok2 := wanted[0].(dmcrypt.Crypt)
	if !ok1 || !ok2 || is.Key.Type != "" {
		return live
	}
	is.Key = want.Key
	return dmcrypt.Table{is}
}

// Lockable refuses mappings that are not a volume of ours, whatever their name: those of
// cryptsetup have the same kind of uuid.
func (k Kernel) Lockable(s spec.Volume, info dmcrypt.Info) error {
	if !strings.HasPrefix(info.UUID, dmcrypt.UUIDPrefixVolume) || !strings.HasSuffix(info.UUID, "-"+s.Mapping) {
		return fault.Newf(fault.MappingMismatch, "mapping %s is not an imxcrypt volume: its uuid is %q", s.Mapping, info.UUID)
	}
	if !info.Live {
		return nil // never used, left by a run that was killed
	}
	live, err := k.Mapper.Table(s.Mapping)
	if err != nil {
		return err
	}
	if len(live) != 1 {
		return fault.Newf(fault.MappingMismatch, "mapping %s is not an imxcrypt volume: its table has %d targets", s.Mapping, len(live))
	}
	switch t := live[0].(type) {
	case dmcrypt.Fail:
		return nil // its table was wiped (dmsetup wipe_table): there is nothing behind it
	case dmcrypt.Crypt:
		if strings.HasPrefix(t.Key.Description, "imxcrypt:") {
			return nil
		}
		return fault.Newf(fault.MappingMismatch, "mapping %s is not an imxcrypt volume: its key is not imxcrypt's", s.Mapping)
	case dmcrypt.Linear:
		over, err := k.Mapper.Info(s.Mapping + OverlaySuffix)
		if err == nil && over.Number == t.Device && strings.HasPrefix(over.UUID, dmcrypt.UUIDPrefixHelper) {
			return nil
		}
	}
	return fault.Newf(fault.MappingMismatch, "mapping %s is not an imxcrypt volume: it is on another device", s.Mapping)
}
