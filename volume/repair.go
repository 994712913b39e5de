// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
)

// openForRepair maps a volume whose key only its filesystem proves. Where that is
// damaged the key may be a wrong one, and what is written through a wrong key is
// lost: the mapping is read-only then, for a copy to repair.
func (u *unlocking) openForRepair(ctx context.Context, key liveKey) error {
	readOnly := u.c.data.ReadOnly()
	switch err := u.verifyByFilesystem(ctx, u.s, u.h, u.c, key); {
	case err == nil:
		u.j.did("key proved by its filesystem")
	case !fault.Is(err, fault.KeyWrong) || isDecryptError(err):
		return err
	default:
		readOnly = true
		u.j.warn("THE KEY IS NOT PROVED: no filesystem of this volume is seen through it. It is mapped read-only: copy it, and repair the copy")
	}
	a, err := u.activate(ctx, u.s.Mapping, dmcrypt.VolumeUUID(u.h.luks.UUID, u.s.Mapping), u.h.description(), key, readOnly,
		func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) { return u.h.dataTable(u.s, u.c.data.Number(), ref) })
	if err != nil {
		return err
	}
	if err := u.sys.Mapper.Announce(ctx, u.s.Mapping); err != nil {
		return errors.Join(err, a.remove(ctx))
	}
	u.j.did("mapping announced")
	return nil
}
