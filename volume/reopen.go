// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"strings"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
)

// compareLive enforces that a live mapping is the one wanted.
func (u *unlocking) compareLive(info dmcrypt.Info, live dmcrypt.Table) error {
	wanted, err := u.wantedTable(live)
	if err != nil {
		return err
	}
	if info.Suspended {
		live = withoutWipedKey(live, wanted)
	}
	readOnly := u.c.data.ReadOnly() || u.o.ForRepair && !u.h.check.InHeader() && info.ReadOnly
	if differences := dmcrypt.Compare(info, live, info.UUID, wanted, readOnly); len(differences) > 0 {
		return refuse(fault.MappingMismatch, "mapping %s is live with another table: %s", u.s.Mapping, strings.Join(differences, "; "))
	}
	return nil
}

// withoutWipedKey puts the wanted reference where a suspended table has a key in
// the clear, which is how the kernel shows one that `cryptsetup luksSuspend`
// wiped. The table is loaded anew before anything passes through it.
func withoutWipedKey(live, wanted dmcrypt.Table) dmcrypt.Table {
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

// reprove opens the key and proves it beside the mapping that is live.
func (u *unlocking) reprove(ctx context.Context) (liveKey, error) {
	key, err := u.openKey(ctx, u.s, u.h)
	if err != nil {
		return nil, err
	}
	u.j.did("key opened")
	if err := u.proveKey(ctx, u.s, u.h, u.c, key); err != nil {
		key.wipe()
		return nil, err
	}
	u.j.did("key proved")
	return key, nil
}

// wake resumes a mapping of this volume that somebody suspended, over a table
// with a key that was proved now: suspending may have wiped the one it had, and a
// black key does not outlive the sleep of most chips.
func (u *unlocking) wake(ctx context.Context) error {
	key, err := u.reprove(ctx)
	if err != nil {
		return err
	}
	defer key.wipe()
	err = key.use(u.h.description(), func(ref dmcrypt.KeyRef) error {
		t, err := u.h.dataTable(u.s, u.c.data.Number(), ref)
		if err != nil {
			return err
		}
		return u.sys.Mapper.Load(ctx, u.s.Mapping, t, u.c.data.ReadOnly())
	})
	if err != nil {
		return err
	}
	if err := u.sys.Mapper.Resume(u.s.Mapping, dmcrypt.Public, quietly); err != nil {
		return errors.Join(err, u.sys.Mapper.Clear(u.s.Mapping))
	}
	u.j.did("suspended mapping resumed")
	return nil
}

// nameAgain announces a mapping whose node is gone while it is in use: it is not
// left by a run that was killed before the key was proved, or that cannot be told
// any more, so the key is proved again.
func (u *unlocking) nameAgain(ctx context.Context) error {
	key, err := u.reprove(ctx)
	if err != nil {
		return err
	}
	key.wipe()
	if err := u.sys.Mapper.Announce(ctx, u.s.Mapping); err != nil {
		return err
	}
	u.j.did("mapping announced again")
	return nil
}

// notOwnMapping refuses a device that is the volume itself, unlocked: what lies
// in it was perhaps made to look like its container.
func (m *Manager) notOwnMapping(s Spec, data Device) error {
	info, err := m.sys.Mapper.Info(s.Mapping)
	if err != nil {
		return nil // there is none, or no device-mapper
	}
	if n := data.Number(); n.Major != info.Number.Major || n.Minor != info.Number.Minor {
		return nil
	}
	return refuse(fault.DeviceAmbiguous, "%s is the volume's own mapping, which lies on its device: device %q must not lead to it", data.Path(), s.Device)
}

// lockable refuses mappings that are not a volume of ours, whatever their name:
// cryptsetup's have the same uuids.
func (m *Manager) lockable(s Spec, info dmcrypt.Info) error {
	if !strings.HasPrefix(info.UUID, dmcrypt.UUIDPrefixVolume) || !strings.HasSuffix(info.UUID, "-"+s.Mapping) {
		return refuse(fault.MappingMismatch, "mapping %s is not a volume of ours: its uuid is %q", s.Mapping, info.UUID)
	}
	if !info.Live {
		return nil // never used, by a run that was killed
	}
	live, err := m.sys.Mapper.Table(s.Mapping)
	if err != nil {
		return err
	}
	if len(live) != 1 {
		return refuse(fault.MappingMismatch, "mapping %s is not a volume of ours: its table has %d targets", s.Mapping, len(live))
	}
	switch t := live[0].(type) {
	case dmcrypt.Fail:
		return nil // its table was wiped (dmsetup wipe_table): nothing lies behind it
	case dmcrypt.Crypt:
		if strings.HasPrefix(t.Key.Description, "imxcrypt:") {
			return nil
		}
		return refuse(fault.MappingMismatch, "mapping %s is not a volume of ours: its key is not one of imxcrypt", s.Mapping)
	case dmcrypt.Linear:
		over, err := m.sys.Mapper.Info(s.Mapping + overlaySuffix)
		if err == nil && over.Number == t.Device && strings.HasPrefix(over.UUID, dmcrypt.UUIDPrefixHelper) {
			return nil
		}
	}
	return refuse(fault.MappingMismatch, "mapping %s is not a volume of ours: it lies on something else", s.Mapping)
}
