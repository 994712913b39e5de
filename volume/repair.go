// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
)

// openForRepair maps a volume whose filesystem may be damaged. If neither the filesystem
// nor a check on the device proves the key, it may be a wrong one, and what is written
// through a wrong key is lost. The mapping is read-only then: a copy of it can be
// repaired.
func (u *unlocking) openForRepair(ctx context.Context, key source.Key) error {
	readOnly := u.c.Data.ReadOnly()
	if u.h.Check.Exists() {
		if err := u.kernel.ProveByCheckArea(ctx, u.s, u.h, u.c, key); err != nil {
			return u.explain(err)
		}
	}
	err := u.seeFilesystem(ctx, u.s, u.h, u.c, key)
	switch code := fault.CodeOf(err); {
	case err == nil:
		u.j.did("key proved by its filesystem")
	case u.h.Check.InHeader() && (code == fault.FilesystemMissing || code == fault.FilesystemWrong):
		u.j.did("key proved by its check")
	case code != fault.KeyWrong || mapping.IsDecryptError(err):
		return err
	default:
		readOnly = true
		u.j.warn("THE KEY IS NOT PROVED: it shows no filesystem of this volume. The volume is mapped read-only: copy it, and repair the copy")
	}
	a, err := u.kernel.Activate(ctx, u.s.Mapping, dmcrypt.VolumeUUID(u.h.LUKS.UUID, u.s.Mapping), mapping.Description(u.h), key, readOnly,
		func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
			return mapping.DataTable(u.h, u.s, u.c.Data.Number(), ref)
		})
	if err != nil {
		return err
	}
	if err := u.sys.Mapper.Announce(ctx, u.s.Mapping); err != nil {
		return errors.Join(err, a.Remove(ctx))
	}
	u.j.did("mapping announced")
	return nil
}
