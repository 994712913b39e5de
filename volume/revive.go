// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// ReviveOptions change how lost keys are given again.
type ReviveOptions struct {
	// DryRun looks and changes nothing.
	DryRun bool
}

// Revive gives an unlocked volume its key again if that was, or may have been, lost in a
// suspend. It does nothing to any other volume: a locked one stays locked, a suspended
// one suspended.
func (m *Manager) Revive(ctx context.Context, s spec.Volume, o ReviveOptions) (Result, error) {
	j := m.begin(s, nil)
	release, err := m.acquire(ctx, s, o.DryRun)
	if err == nil {
		err = errors.Join(m.revive(ctx, s, o, j), release())
	}
	return j.result, Failed(ctx, "restore the key of", s, err)
}

// revive is Revive with the volume's lock held.
func (m *Manager) revive(ctx context.Context, s spec.Volume, o ReviveOptions, j *runLog) error {
	j.result.Already = true
	if s.Ephemeral() {
		return nil // only the kernel has its key
	}
	info, err := m.sys.Mapper.Info(s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	announced, err := m.sys.Mapper.Announced(s.Mapping)
	if err != nil {
		return err
	}
	if info.Suspended || !info.Live || unannounced(info, announced) {
		j.warn(fmt.Sprintf("mapping %s is suspended, and stays so: imxcrypt unlock %s resumes it", s.Mapping, s.Name))
		return nil
	}
	path, err := m.find(ctx, s, false)
	if err != nil {
		return err
	}
	c, h, err := m.openHeader(s, path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.Close()
	j.identify(h, path)
	if err := m.mayOpen(s, h, j); err != nil {
		return err
	}
	u := &unlocking{Manager: m, s: s, o: UnlockOptions{DryRun: o.DryRun}, j: j, c: c, h: h, revives: true}
	if _, err = u.alreadyOpen(ctx); err == nil && u.revived {
		if o.DryRun {
			j.would("open the key again, prove it, and give it to /dev/mapper/" + s.Mapping)
		}
		j.result.Already = false
		// Its rotation ended with the key.
		j.result.Rotating = h.Next != nil && !o.DryRun
		j.result.Mapping = "/dev/mapper/" + s.Mapping
	}
	return err
}

// proveLive checks the key under a live mapping that is otherwise as it should be. A lost
// key is given again, or is an error of code keys-lost. under are the mappings with the
// keys.
func (u *unlocking) proveLive(ctx context.Context, info dmcrypt.Info, v dmcrypt.Visibility, under ...side) error {
	slept := u.sys.Slept()
	is, why := u.condition(u.s, info)
	switch {
	case is == alive:
		u.recordProof(u.s, u.h.LUKS.UUID, slept)
		return nil
	case !is.lost():
		return why
	case !u.revives:
		return lostKey(u.s, is, why)
	case u.o.DryRun:
		u.revived = true
		return nil
	}
	u.sys.Log.Warn("the key of a volume in use was lost, or is in doubt: it is restored", "volume", u.s.Name, "error", lostKey(u.s, is, why))
	if err := u.reloadKeys(ctx, is, v, under); err != nil {
		return err
	}
	u.revived = true
	u.j.did("lost key given to the mapping again")
	u.forgetNoise(info)
	u.recordProof(u.s, u.h.LUKS.UUID, slept)
	return nil
}

// reloadKeys puts keys under mappings in use, after proving them. It does not freeze a
// filesystem, which would write. If a key is dead, nothing passes until the reloaded one
// is proved; if that fails, the mappings stay suspended.
func (u *unlocking) reloadKeys(ctx context.Context, is condition, v dmcrypt.Visibility, under []side) (err error) {
	ctx = context.WithoutCancel(ctx)
	resume := func(list []side) (err error) {
		for _, x := range list {
			err = errors.Join(err, u.sys.Mapper.Resume(x.name, v, mapping.Quietly))
		}
		return err
	}
	for i, x := range under {
		if err := u.sys.Mapper.Suspend(ctx, x.name, mapping.Quietly); err != nil {
			return errors.Join(err, resume(under[:i]))
		}
	}
	for _, x := range under {
		if err = u.loadProved(ctx, x.name, x.h, nil); err != nil {
			break
		}
	}
	if err == nil {
		return resume(under)
	}
	for _, x := range under {
		err = errors.Join(err, u.sys.Mapper.Clear(x.name))
	}
	if is != dead {
		return errors.Join(err, resume(under))
	}
	return fault.New(fault.StaysSuspended, fmt.Sprintf("mapping %s stays suspended, and its users wait", u.s.Mapping), err)
}

// forgetNoise has the kernel drop what it may have read through a dead key. What it still
// has to write stays, and is written with the right one.
func (u *unlocking) forgetNoise(info dmcrypt.Info) {
	targets, err := u.mountPoints(info)
	if err == nil && len(targets) == 0 {
		return
	}
	if u.sys.DropCaches != nil {
		err = errors.Join(err, u.sys.DropCaches())
	}
	if err != nil {
		u.sys.Log.Warn("what was read through the dead key may still be in memory", "volume", u.s.Name, "error", err)
	}
	u.j.warn("what programs read from the volume, or changed in it, while its key was lost is not to be trusted; what was written back before is there. If the kernel made the filesystem read-only meanwhile: imxcrypt lock " + u.s.Name + ", then imxcrypt unlock --mount " + u.s.Name)
}

// verifyLive proves the key under the volume's mapping, if it is unlocked, with the help
// of a key that was just proved. It writes nothing.
func (u *unlocking) verifyLive(ctx context.Context, key source.Key) error {
	info, err := u.sys.Mapper.Info(u.s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return nil
	}
	if err != nil || info.UUID != dmcrypt.VolumeUUID(u.h.LUKS.UUID, u.s.Mapping) {
		return err
	}
	slept := u.sys.Slept()
	is, why := u.condition(u.s, info)
	if is == doubtful && u.h.Next == nil {
		var same bool
		if same, err = u.sameData(ctx, info, key); err != nil {
			why = errors.Join(why, err)
		} else if is = dead; same {
			is = alive
		}
	}
	if is.lost() {
		return lostKey(u.s, is, why)
	}
	if is == alive {
		u.recordProof(u.s, u.h.LUKS.UUID, slept)
		u.j.did("live mapping proved")
	}
	return nil
}

// comparedBlocks is how many blocks are compared before two keys count as different: the
// data of a volume in use changes.
const comparedBlocks = 16

// sameData compares what a live mapping shows with what a key makes of the same blocks,
// whatever they contain.
func (u *unlocking) sameData(ctx context.Context, info dmcrypt.Info, key source.Key) (same bool, err error) {
	return u.sameThrough(ctx, u.s, u.h, u.c, &mapping.Private{K: u.kernel, Name: u.s.Mapping, Num: info.Number}, key)
}

// sameThrough compares what a live mapping of a header's data shows with what a key
// makes of it.
func (m *Manager) sameThrough(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, live *mapping.Private, key source.Key) (same bool, err error) {
	err = m.kernel.WithData(ctx, s, h, c.Data.Number(), key, func(a *mapping.Private) error {
		return mapping.WithDevice(live, false, func(is header.Device) error {
			return mapping.WithDevice(a, false, func(want header.Device) (err error) {
				same, err = sameBlocks(is, want, m.sys.Patience)
				return err
			})
		})
	})
	return same, err
}

// sameBlocks reports whether one of the compared blocks is the same on both.
func sameBlocks(is, want header.Device, patience time.Duration) (bool, error) {
	compared := 0
	step := max(is.Size()/comparedBlocks/header.BlockAlign, 1) * header.BlockAlign
	for at := int64(0); at+header.BlockAlign <= is.Size(); at += step {
		x, y := make([]byte, header.BlockAlign), make([]byte, header.BlockAlign)
		err := within(patience, func() error { _, err := cleanReader{is}.ReadAt(x, at); return err })
		if errors.Is(err, blockdev.ErrDirty) {
			continue
		}
		if mapping.IsDecryptError(err) {
			compared++
			continue
		}
		if _, err2 := want.ReadAt(y, at); err != nil || err2 != nil {
			return false, errors.Join(err, err2)
		}
		if bytes.Equal(x, y) {
			return true, nil
		}
		compared++
	}
	if compared == 0 {
		return false, fault.Newf(fault.Busy, "nothing of it can be read without writing")
	}
	return false, nil
}
