// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"os"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blank"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// A volume with key: ephemeral gets another key whenever it is unlocked, and is then
// formatted. What is on its device is lost each time, so the device is never guessed: a
// person provisions it once, on an empty device or with --wipe, and that leaves a mark on
// it. Only a device with this volume's mark, of the size that it had then and with
// nothing else in front of the data, is ever formatted.

// noHeader refuses what needs a header or a stored key for a volume with a throw-away
// key.
func noHeader() error {
	return fault.Newf(fault.Usage, "the volume's key is thrown away whenever it is locked (key: ephemeral): it has no header, and nothing to keep, change or recover")
}

// mark provisions a volume with a throw-away key.
func (p *provisioning) mark(ctx context.Context) (err error) {
	if p.copies().any() {
		return noHeader()
	}
	release, err := p.sys.Locks.Acquire(ctx, p.s.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if p.path, err = p.find(ctx, p.s, true); err != nil {
		return err
	}
	p.j.result.Device = p.path
	marked, err := p.marked(ctx)
	if err != nil {
		return err
	}
	if err := p.requireClosed(p.securityState()); err != nil {
		return err
	}
	if marked {
		p.j.result.Already = true
		if p.o.DryRun {
			p.j.would("do nothing: the device is marked already")
			return nil
		}
		return p.finishMarked(ctx)
	}
	free := func(dev header.Device) error { return p.requireDisposable(ctx, dev) }
	if err := p.exclusively(free); err != nil {
		return err
	}
	if err := p.permitted(ctx, survey{}); err != nil {
		return err
	}
	if p.o.DryRun {
		p.announceMark()
		return nil
	}
	if err := p.exclusively(func(dev header.Device) error {
		if err := free(dev); err != nil {
			return err
		}
		return p.writeMark(ctx, dev)
	}); err != nil {
		return err
	}
	p.j.did("device marked")
	return p.finishMarked(ctx)
}

func (p *provisioning) announceMark() {
	if p.o.Wipe {
		p.j.would("overwrite what is on " + p.path)
	}
	p.j.would("mark " + p.path + ": from then on it is formatted at each unlocking")
	if !p.o.NoMount {
		p.j.would("unlock it, with a key that is thrown away")
	}
}

// marked reports whether the device has the volume's mark. Anything else that is
// recognised is an error, unless --wipe is given.
func (p *provisioning) marked(ctx context.Context) (bool, error) {
	dev, err := p.sys.Devices.Open(p.path, blockdev.Flags{Direct: true})
	if err != nil {
		return false, err
	}
	k, err := header.ReadScratchMark(p.s, dev)
	if err == nil {
		err = p.requireNotHibernated(ctx, p.s, dev)
	}
	if err = errors.Join(err, dev.Close()); err == nil {
		p.j.result.UUID = k.UUID
		return true, nil
	}
	if fault.Is(err, fault.NotProvisioned) || p.o.Wipe && !fault.Is(err, fault.IOFailed) && !fault.Is(err, fault.DeviceUnsuitable) && !fault.Is(err, fault.SleepRefused) {
		return false, nil
	}
	return false, err
}

// requireDisposable enforces that the mark destroys nothing, or that --wipe permits it.
func (p *provisioning) requireDisposable(ctx context.Context, dev header.Device) error {
	if err := p.sized(dev); err != nil {
		return err
	}
	if err := p.requireNotHibernated(ctx, p.s, dev); err != nil {
		return err
	}
	if p.o.Wipe {
		return p.notOurs(dev)
	}
	return p.requireEmpty(dev)
}

// writeMark writes the first sector alone. What follows it is blank already, or is made
// so.
func (p *provisioning) writeMark(ctx context.Context, dev header.Device) error {
	uuid, err := p.newUUID()
	if err != nil {
		return err
	}
	area := make([]byte, header.ScratchArea)
	if _, err := dev.ReadAt(area, 0); err != nil {
		return fault.New(fault.IOFailed, "read "+p.path, err)
	}
	if p.o.Wipe || !blank.Erased(area) {
		if err := p.overwrite(ctx, dev); err != nil {
			return err
		}
		clear(area)
	}
	block := area[:header.BlockAlign]
	copy(block, header.ScratchMark{Size: dev.Size(), UUID: uuid, Label: p.s.Name}.Sector())
	if _, err := dev.WriteAt(block, 0); err != nil {
		return fault.New(fault.IOFailed, "mark "+p.path, err)
	}
	if err := dev.Flush(); err != nil {
		return fault.New(fault.IOFailed, "mark "+p.path, err)
	}
	k, err := header.ReadScratchMark(p.s, dev)
	p.j.result.UUID = k.UUID
	return err
}

func (p *provisioning) finishMarked(ctx context.Context) error {
	if p.o.NoMount {
		return nil
	}
	if err := p.unlockScratch(ctx, p.s, p.path, UnlockOptions{Mount: p.s.Mountable()}, p.j); err != nil {
		return fmt.Errorf("provisioned, but: %w", err)
	}
	return nil
}

// openMarked opens the device of a volume with a throw-away key and makes, in memory, the
// header that such a volume does not have. Without j, nothing is chosen that the
// configuration leaves open.
func (m *Manager) openMarked(ctx context.Context, s spec.Volume, path string, f blockdev.Flags, j *runLog) (*unlocking, error) {
	if err := s.Permitted(); err != nil {
		return nil, err
	}
	dev, err := m.sys.Devices.Open(path, f)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*unlocking, error) { return nil, errors.Join(err, dev.Close()) }
	if err := m.kernel.NotOwnMapping(s, dev); err != nil {
		return fail(err)
	}
	k, err := header.ReadScratchMark(s, dev)
	if err != nil {
		return fail(err)
	}
	if j != nil {
		if s, _, err = m.chosen(ctx, s, false, j); err != nil {
			return fail(err)
		}
	}
	if j == nil {
		j = m.begin(s, nil)
	}
	j.result.Device, j.result.UUID = path, k.UUID
	return &unlocking{Manager: m, s: s, j: j, c: &header.Storage{Data: dev, Header: dev}, h: header.Scratch(s, k)}, nil
}

// unlockScratch gives a volume a new key and formats it, unless it is unlocked. The
// caller holds the volume's lock.
func (m *Manager) unlockScratch(ctx context.Context, s spec.Volume, path string, o UnlockOptions, j *runLog) error {
	if o.ForRepair {
		return noHeader()
	}
	u, err := m.openMarked(ctx, s, path, blockdev.Flags{Direct: true}, j)
	if err != nil {
		return err
	}
	defer u.c.Close()
	u.o = o
	open, err := u.scratchOpen(ctx)
	if err != nil {
		return err
	}
	if !open {
		if err := m.requireNotHibernated(ctx, s, u.c.Data); err != nil {
			return err
		}
		if o.DryRun {
			_, err := u.kernel.UsedByUs(u.s, u.h, u.c.Data)
			j.would("make a key that is thrown away, and /dev/mapper/" + s.Mapping)
			j.would("make " + s.Filesystem.Type + " in it")
			return err
		}
		if err := u.makeScratch(ctx); err != nil {
			return err
		}
		j.result.opened = true
	} else if j.result.Already = true; o.DryRun {
		j.would("do nothing: the volume is unlocked already")
		return nil
	}
	j.result.Mapping = "/dev/mapper/" + s.Mapping
	if !o.Mount {
		return nil
	}
	return u.useScratch()
}

// scratchOpen compares a live mapping with the wanted one. It removes one that a killed
// run left unannounced: no one has used it.
func (u *unlocking) scratchOpen(ctx context.Context) (bool, error) {
	info, err := u.sys.Mapper.Info(u.s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if want := dmcrypt.VolumeUUID(u.h.LUKS.UUID, u.s.Mapping); info.UUID != want {
		return false, fault.Newf(fault.MappingMismatch, "mapping %s exists and is not this volume: its uuid is %q, not %q", u.s.Mapping, info.UUID, want)
	}
	announced, err := u.sys.Mapper.Announced(u.s.Mapping)
	switch {
	case err != nil:
		return false, err
	case !info.Live || unannounced(info, announced):
		if u.o.DryRun {
			return false, nil
		}
		return false, u.sys.Mapper.Remove(ctx, u.s.Mapping)
	case !announced || info.Suspended:
		return false, fault.Newf(fault.Busy, "mapping %s is being made, or suspended", u.s.Mapping)
	}
	live, err := u.sys.Mapper.Table(u.s.Mapping)
	if err != nil {
		return false, err
	}
	return true, u.compareLive(info, live)
}

// makeScratch maps the data under a new key and formats it before it announces the
// mapping.
func (u *unlocking) makeScratch(ctx context.Context) error {
	if err := u.kernel.Claim(ctx, u.s, u.h, u.c.Data, true); err != nil {
		return err
	}
	src, err := u.sources.Of(u.s)
	if err != nil {
		return err
	}
	if err := u.sys.Harden(); err != nil {
		return err
	}
	key, err := src.Sample(ctx, source.Request{UUID: u.h.LUKS.UUID, Generation: u.h.Token.Generation, Wrap: caam.Wrap(u.s.KeyWrap()), KeySize: u.s.KeySize})
	if err != nil {
		return err
	}
	defer key.Wipe()
	u.j.did("key made")
	a, err := u.kernel.Activate(ctx, u.s.Mapping, dmcrypt.VolumeUUID(u.h.LUKS.UUID, u.s.Mapping), mapping.Description(u.h), key, false,
		func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
			return mapping.DataTable(u.h, u.s, u.c.Data.Number(), ref)
		})
	if err != nil {
		return err
	}
	// From here on the mapping keeps others from the device: what is on it now stays.
	if _, err = header.ReadScratchMark(u.s, u.c.Data); err == nil {
		err = u.format(ctx, a)
	}
	if err == nil {
		err = u.sys.Mapper.Announce(ctx, u.s.Mapping)
	}
	if err != nil {
		return errors.Join(err, a.Remove(ctx))
	}
	u.j.did(u.s.Filesystem.Type + " made")
	return nil
}

func (u *unlocking) format(ctx context.Context, a *mapping.Private) error {
	if !u.s.Swap() {
		_, err := (&provisioning{Manager: u.Manager, s: u.s, path: u.c.Data.Path()}).makeFilesystemOn(ctx, u.h, a)
		return err
	}
	page, err := swapHeader(u.h.Segment.Size, os.Getpagesize(), u.h.LUKS.UUID, u.s.Name)
	if err != nil {
		return err
	}
	return mapping.WithDevice(a, true, func(d header.Device) error {
		if _, err := d.WriteAt(page, 0); err != nil {
			return fault.New(fault.IOFailed, "make swap on "+u.c.Data.Path(), err)
		}
		return d.Flush()
	})
}

// useScratch mounts the volume, or swaps it on.
func (u *unlocking) useScratch() error {
	if u.s.Swap() {
		info, err := u.sys.Mapper.Info(u.s.Mapping)
		if err != nil {
			return err
		}
		used, err := u.swapped(info)
		if err != nil || used {
			return err
		}
		if u.sys.Swaps == nil {
			return fault.Newf(fault.Failed, "there is no swap here")
		}
		if err := u.sys.Swaps.SwapOn(u.j.result.Mapping, u.s.AllowDiscards); err != nil {
			return err
		}
		u.j.result.Already = false
		u.j.did("swapped on")
		return nil
	}
	done, err := u.mountedAlready()
	if err != nil {
		return err
	}
	if !done {
		if err := u.sys.Mounts.Mount(u.j.result.Mapping, u.s.Mount.Path, u.s.Filesystem.Type, u.s.Mount.Options); err != nil {
			return err
		}
		u.j.result.Already = false
		u.j.did("mounted")
	}
	u.j.result.Mounted = u.s.Mount.Path
	return nil
}

// swapped reports whether the kernel swaps to a mapping.
func (m *Manager) swapped(info dmcrypt.Info) (bool, error) {
	users, err := m.sys.Devices.Users(info.Number)
	return len(users.Swap) > 0, err
}

// swapOff stops swapping to the volume before its mapping is removed.
func (m *Manager) swapOff(s spec.Volume, info dmcrypt.Info, o LockOptions, j *runLog) error {
	used, err := m.swapped(info)
	if err != nil || !used || m.sys.Swaps == nil {
		return err
	}
	if o.DryRun {
		j.would("swap off /dev/mapper/" + s.Mapping)
		return nil
	}
	if err := m.sys.Swaps.SwapOff("/dev/mapper/" + s.Mapping); err != nil {
		return err
	}
	j.did("swapped off")
	return nil
}

// swapState is mountState for a volume that is swapped on.
func (m *Manager) swapState(info dmcrypt.Info, st *Status) (err error) {
	if st.Mounted, err = m.swapped(info); err == nil && !st.Mounted {
		st.misused = fault.Newf(fault.NotMounted, "unlocked, and not swapped on")
	}
	return err
}

// scratchState is storedState for a volume with a throw-away key.
func (m *Manager) scratchState(ctx context.Context, s spec.Volume, st *Status, path string, live *dmcrypt.Info) error {
	u, err := m.openMarked(ctx, s, path, blockdev.Flags{}, nil)
	if err != nil {
		switch fault.CodeOf(err) {
		case fault.NotProvisioned:
			st.State = Unprovisioned
		case fault.HeaderMismatch, fault.NotEmpty, fault.PlaintextFound, fault.ShrinkStarted, fault.ForeignHeader, fault.IOFailed:
			st.State = Damaged
		}
		return err
	}
	defer u.c.Close()
	st.UUID, st.Size, st.IntactHeader = u.h.LUKS.UUID, u.h.Segment.Size, true
	st.Source, st.Wrap, st.KeySize, st.Cipher = u.s.Source, u.s.Wrap, u.s.KeySize, u.s.Cipher
	u.o.DryRun = true
	if live != nil && live.UUID != dmcrypt.VolumeUUID(u.h.LUKS.UUID, s.Mapping) {
		st.Mapping, st.Mounted, st.misused = "", false, nil
	}
	switch {
	case st.Mounted:
		st.State = Mounted
	case st.Mapping != "":
		st.State = Unlocked
	default:
		st.State = Locked
	}
	if live != nil && s.Source != spec.SourceAuto && !s.CipherOpen() {
		_, err = u.scratchOpen(ctx)
	}
	return err
}

// verifyScratch reports whether the volume could be unlocked now, or is unlocked as it
// should be. The caller holds the volume's lock.
func (m *Manager) verifyScratch(ctx context.Context, s spec.Volume, path string, j *runLog) error {
	u, err := m.openMarked(ctx, s, path, blockdev.Flags{Direct: true}, j)
	if err != nil {
		return err
	}
	defer u.c.Close()
	j.did("mark read")
	u.o.DryRun = true
	open, err := u.scratchOpen(ctx)
	if err != nil || open {
		return err
	}
	if err := m.requireNotHibernated(ctx, s, u.c.Data); err != nil {
		return err
	}
	if _, err := u.kernel.UsedByUs(u.s, u.h, u.c.Data); err != nil {
		return err
	}
	if err := m.tryKernel(ctx, u.s); err != nil {
		return err
	}
	j.did("a key can be made")
	return nil
}

// unmark erases a volume with a throw-away key. When it is locked, its key is gone;
// without the mark nothing is formatted any more.
func (m *Manager) unmark(ctx context.Context, s spec.Volume, path string, o EraseOptions, j *runLog) (err error) {
	if o.DryRun {
		u, err := m.openMarked(ctx, s, path, blockdev.Flags{Direct: true}, j)
		if err != nil {
			return err
		}
		j.would("lock the volume, by which its key is gone, and remove the mark")
		return u.c.Close()
	}
	if _, err := m.lock(ctx, s, LockOptions{}); err != nil {
		return err
	}
	release, err := m.sys.Locks.Acquire(ctx, s.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	u, err := m.openMarked(ctx, s, path, blockdev.Flags{Write: true, Exclusive: true, Direct: true}, j)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.c.Close()) }()
	if err := blockdev.Zero(ctx, u.c.Data, 0, header.BlockAlign); err != nil {
		return fault.New(fault.IOFailed, "remove the mark of "+path, err)
	}
	if err := u.c.Data.Flush(); err != nil {
		return fault.New(fault.IOFailed, "remove the mark of "+path, err)
	}
	j.did("mark removed")
	return nil
}

// requireNotHibernated refuses a device that a suspend-to-disk would write to, or has
// written to: formatting would destroy the image, or it would be written under a key that
// no one has after the sleep.
func (m *Manager) requireNotHibernated(ctx context.Context, s spec.Volume, dev header.Device) error {
	list, err := m.sys.Hibernates()
	if err != nil {
		return fault.New(fault.Failed, "find out where a suspend-to-disk is written to (/proc/cmdline, /sys/power/resume)", err)
	}
	n := dev.Number()
	for _, where := range list {
		hit := where == s.Device || where == "/dev/mapper/"+s.Mapping || where == fmt.Sprintf("%d:%d", n.Major, n.Minor)
		if path, err := m.sys.Devices.Find(ctx, where); !hit && err == nil {
			other, err := m.sys.Devices.Open(path, blockdev.Flags{})
			if err != nil {
				continue
			}
			hit = other.Number() == n
			if err := other.Close(); err != nil {
				return err
			}
		}
		if hit {
			return fault.Newf(fault.SleepRefused, "the kernel resumes a suspend-to-disk from %s (resume=%s), and what is written there with a key that is thrown away cannot be read by the next boot: remove resume= from the kernel's command line, or give the volume another device", dev.Path(), where)
		}
	}
	return nil
}
