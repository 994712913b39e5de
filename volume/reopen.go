// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"strings"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
)

// compareLive enforces that a live mapping is as wanted.
func (u *unlocking) compareLive(info dmcrypt.Info, live dmcrypt.Table) error {
	wanted, err := u.wantedTable(live)
	if err != nil {
		return err
	}
	if info.Suspended {
		live = mapping.WithoutWipedKey(live, wanted)
	}
	if shorter(live, wanted) {
		// A resize was interrupted between header and mapping. Another resize, or opening
		// the volume again, completes it.
		u.j.warn("the mapping is smaller than the header says: `imxcrypt resize " + u.s.Name + "` finishes what was interrupted")
		live = resized(live, wanted)
	}
	if live.IsCut() && sameExtent(live, wanted) {
		return nil // a cut table is replaced later, or the mapping is of no use
	}
	readOnly := u.c.Data.ReadOnly() || u.o.ForRepair && info.ReadOnly
	if differences := dmcrypt.Compare(info, live, info.UUID, wanted, readOnly); len(differences) > 0 {
		return fault.Newf(fault.MappingMismatch, "mapping %s is live with another table: %s", u.s.Mapping, strings.Join(differences, "; "))
	}
	return nil
}

// shorter reports whether a live table has the wanted one's only target, but fewer
// sectors.
func shorter(live, wanted dmcrypt.Table) bool {
	return len(live) == 1 && len(wanted) == 1 && live[0].Kind() == wanted[0].Kind() && live.Sectors() < wanted.Sectors()
}

// resized returns the live table, of one crypt target, with the length of another.
func resized(live, as dmcrypt.Table) dmcrypt.Table {
	is, ok := live[0].(dmcrypt.Crypt)
	if !ok {
		return live
	}
	is.Length = as.Sectors()
	return dmcrypt.Table{is}
}

func sameExtent(a, b dmcrypt.Table) bool { return a.Sectors() == b.Sectors() }

// loadProved loads a suspended mapping's table with a key that it proves first.
func (u *unlocking) loadProved(ctx context.Context, name string, h *header.Header, j *runLog) error {
	key, err := u.openProved(ctx, u.s, h, u.c, j)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return key.Use(mapping.Description(h), func(ref dmcrypt.KeyRef) error {
		t, err := mapping.DataTable(h, u.s, u.c.Data.Number(), ref)
		if err != nil {
			return err
		}
		return u.sys.Mapper.Load(ctx, name, t, u.c.Data.ReadOnly())
	})
}

// resumeProved resumes a suspended mapping of this volume with a table whose key is
// proved first: suspending may have wiped the key that it had, and on most chips a black
// key does not survive a sleep.
func (u *unlocking) resumeProved(ctx context.Context) error {
	if err := u.loadProved(ctx, u.s.Mapping, u.h, u.j); err != nil {
		return err
	}
	if err := u.sys.Mapper.Resume(u.s.Mapping, dmcrypt.Public, mapping.Quietly); err != nil {
		return errors.Join(err, u.sys.Mapper.Clear(u.s.Mapping))
	}
	u.j.did("suspended mapping resumed")
	return nil
}

// announceAgain announces a mapping that is in use and whose node is gone. It can no
// longer be determined whether a run that was killed before the key was proved has left
// it, so the key is proved again.
func (u *unlocking) announceAgain(ctx context.Context) error {
	key, err := u.openProved(ctx, u.s, u.h, u.c, u.j)
	if err != nil {
		return err
	}
	key.Wipe()
	if err := u.sys.Mapper.Announce(ctx, u.s.Mapping); err != nil {
		return err
	}
	u.j.did("mapping announced again")
	return nil
}
