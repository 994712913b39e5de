// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imxcrypt/dmcrypt"
)

// keys are the headers of all keys that the volume is under.
func (v *sleeper) keys() []*header {
	if v.key != nil {
		return []*header{v.key}
	}
	return []*header{v.sides[0].h, v.sides[1].h}
}

// prove opens each key and proves it, beside the live mapping.
func (v *sleeper) prove(ctx context.Context) error {
	if !v.keyed() {
		return nil
	}
	for _, h := range v.keys() {
		key, err := v.proved(ctx, h)
		if err != nil {
			return err
		}
		key.wipe()
	}
	return nil
}

// proved opens a key and proves it. Its owner wipes it.
func (v *sleeper) proved(ctx context.Context, h *header) (liveKey, error) {
	key, err := v.openKey(ctx, v.s, h)
	if err != nil {
		return nil, err
	}
	if err := v.proveKey(ctx, v.s, h, v.c, key); err != nil {
		key.wipe()
		return nil, err
	}
	return key, nil
}

// suspend freezes the volume's filesystem and waits for what is in flight. The
// sides of a rotation are then idle; that they are suspended too says that their
// keys are to be proved before they are used.
func (v *sleeper) suspend(ctx context.Context) error {
	if err := v.sys.Mapper.Suspend(ctx, v.s.Mapping, 0); err != nil {
		return err
	}
	for _, x := range v.sides {
		if err := v.sys.Mapper.Suspend(ctx, x.name, quietly); err != nil {
			return errors.Join(err, v.resume())
		}
	}
	return nil
}

// resume lets the volume go on with the keys that it has.
func (v *sleeper) resume() error {
	for _, x := range v.sides {
		if err := v.sys.Mapper.Resume(x.name, dmcrypt.Private, quietly); err != nil {
			return err
		}
	}
	return v.sys.Mapper.Resume(v.s.Mapping, dmcrypt.Public, quietly)
}

// onSuspended names a volume below that cannot answer.
func (v *sleeper) onSuspended() error {
	for _, o := range v.on {
		if o.stays {
			return fmt.Errorf("it lies on %s, which stays suspended", o.s.Name)
		}
	}
	return nil
}

// Right after a sleep, the coprocessor or the storage may need another moment.
const (
	wakeTries = 3
	wakePause = 50 * time.Millisecond
)

// wake gives the volume its keys anew, proved, and lets it go on.
func (v *sleeper) wake(ctx context.Context) (err error) {
	if !v.keyed() {
		return v.resume()
	}
	for try := range wakeTries {
		if try > 0 {
			time.Sleep(wakePause)
		}
		if err = v.loadKeys(ctx); err == nil {
			return v.resume()
		}
	}
	return err
}

// loadKeys proves each key and loads the tables with it. Nothing passes through
// them before the volume is resumed.
func (v *sleeper) loadKeys(ctx context.Context) error {
	if v.key != nil {
		return v.loadProved(ctx, v.s.Mapping, v.key)
	}
	for _, x := range v.sides {
		if err := v.loadProved(ctx, x.name, x.h); err != nil {
			return err
		}
	}
	return nil
}

// loadProved loads a suspended mapping's table with a key that was proved now.
func (u *unlocking) loadProved(ctx context.Context, mapping string, h *header) error {
	key, err := u.openKey(ctx, u.s, h)
	if err != nil {
		return err
	}
	defer key.wipe()
	if err := u.proveKey(ctx, u.s, h, u.c, key); err != nil {
		return err
	}
	return key.use(h.description(), func(ref dmcrypt.KeyRef) error {
		t, err := h.dataTable(u.s, u.c.data.Number(), ref)
		if err != nil {
			return err
		}
		return u.sys.Mapper.Load(ctx, mapping, t, u.c.data.ReadOnly())
	})
}

// wakeSides proves the keys of a rotation anew whose mappings were suspended, as
// they are by a sleep after which that did not work.
func (u *unlocking) wakeSides(ctx context.Context) error {
	for _, x := range []side{{u.s.Mapping + oldSuffix, u.h}, {u.s.Mapping + newSuffix, u.h.next}} {
		info, err := u.sys.Mapper.Info(x.name)
		if err != nil {
			return err
		}
		if !info.Suspended {
			continue
		}
		if err := u.loadProved(ctx, x.name, x.h); err != nil {
			return err
		}
		if err := u.sys.Mapper.Resume(x.name, dmcrypt.Private, quietly); err != nil {
			return errors.Join(err, u.sys.Mapper.Clear(x.name))
		}
		u.j.did("key proved, suspended mapping " + x.name + " resumed")
	}
	return nil
}
