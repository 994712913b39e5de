// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// UnlockOptions change how a volume is unlocked.
type UnlockOptions struct {
	// Mount mounts the volume where the configuration says.
	Mount bool
	// ForRepair accepts a missing or damaged filesystem, for fsck. Such a volume is never
	// mounted. It is read-only if nothing that is stored makes sense through the key, and
	// with a detached header whenever its filesystem is not seen.
	ForRepair bool
	// NoWait looks for the device once instead of up to the volume's timeout.
	NoWait bool
	// DryRun looks and changes nothing.
	DryRun bool
	// Progress is called after each step.
	Progress func(Step)
}

// Unlock opens a volume, and mounts it if asked. What is open already is compared with
// what is wanted and left as it is, except that a key lost in a suspend is given again.
func (m *Manager) Unlock(ctx context.Context, s spec.Volume, o UnlockOptions) (Result, error) {
	began, slept := m.sys.Now(), m.sys.Slept()
	r, err := m.unlock(ctx, s, o)
	if err == nil {
		m.recordUnlock(s, r, began, slept)
	}
	err = Failed(ctx, "unlock", s, err)
	if !o.DryRun {
		m.recordOutcome(s, err)
	}
	return r, err
}

func (m *Manager) unlock(ctx context.Context, s spec.Volume, o UnlockOptions) (_ Result, err error) {
	j := m.begin(s, o.Progress)
	if err := s.Permitted(); err != nil {
		return j.result, err
	}
	release, err := m.acquire(ctx, s, o.DryRun)
	if err != nil {
		return j.result, err
	}
	defer func() { err = errors.Join(err, release()) }()
	path, err := m.find(ctx, s, !o.NoWait)
	if err != nil {
		return j.result, err
	}
	j.did("device found")
	r, err := m.unlockLocked(ctx, s, path, o, j)
	if err == nil || o.ForRepair || !m.mayEncrypt(s, path, err) {
		return r, err
	}
	if err := m.encryptFound(ctx, s, path, o, j); err != nil || o.DryRun {
		return j.result, err
	}
	return m.unlockLocked(ctx, s, path, o, j)
}

// unlockLocked unlocks the volume on the device at path. The caller holds the volume's
// lock.
func (m *Manager) unlockLocked(ctx context.Context, s spec.Volume, path string, o UnlockOptions, j *runLog) (Result, error) {
	if s.Ephemeral() {
		return j.result, m.unlockScratch(ctx, s, path, o, j)
	}
	c, h, err := m.openHeader(s, path, blockdev.Flags{Direct: true})
	if fault.Is(err, fault.EncryptionStarted) && !o.DryRun {
		if err = m.finishStart(s, path, j); err == nil {
			c, h, err = m.openHeader(s, path, blockdev.Flags{Direct: true})
		}
	}
	if err != nil {
		return j.result, err
	}
	defer c.Close()
	j.identify(h, path)
	if err := m.mayOpen(s, h, j); err != nil {
		return j.result, err
	}
	j.did("header read")

	u := &unlocking{Manager: m, s: s, o: o, j: j, c: c, h: h, revives: true}
	if s.Grow {
		h = m.grow(ctx, u, path)
		u.h = h
	}
	open, err := u.alreadyOpen(ctx)
	if err != nil {
		return j.result, err
	}
	rotating := h.Next != nil
	if o.DryRun {
		return j.result, u.announceSteps(open)
	}
	if open {
		j.result.Already = !u.revived
		j.result.Rotating = (u.revived || u.woken) && rotating // its rotation had ended
	} else if err := u.open(ctx); err != nil {
		return j.result, err
	} else {
		j.result.opened, j.result.Rotating = true, rotating
	}
	j.result.Mapping = "/dev/mapper/" + s.Mapping
	u.repairOnDevice(ctx)
	if s.EncryptPlain {
		m.rememberPlain(s, h, j)
	} else if h.Next == nil {
		m.rememberEnded(s, h)
	}
	if o.Mount && !o.ForRepair {
		return j.result, u.mount(ctx)
	}
	return j.result, nil
}

// unlocking is one run over one volume.
type unlocking struct {
	*Manager
	s spec.Volume
	o UnlockOptions
	j *runLog
	c *header.Storage
	h *header.Header
	// revives permits opening keys: a key lost in a suspend is given again. revived
	// reports that it was, or would be by a dry run.
	revives, revived bool
	// woken reports that a rotation that a sleep had left suspended was resumed.
	woken bool
}

// mayOpen applies the rules that must hold before any key is touched.
func (m *Manager) mayOpen(s spec.Volume, h *header.Header, j *runLog) error {
	if err := h.MatchesRotating(s); err != nil {
		return err
	}
	return m.mayUse(s, h, j)
}

// mayUse is mayOpen without the comparison with the configuration.
func (m *Manager) mayUse(s spec.Volume, h *header.Header, j *runLog) error {
	if h.Token.Phase == header.PhaseErasing {
		return fault.Newf(fault.EraseStarted, "the volume was being erased, and that was interrupted")
	}
	if h.Token.Phase != header.PhaseReady {
		return fault.Newf(fault.ProvisioningStarted, "provisioning was interrupted; there is no data in the volume yet")
	}
	if err := h.NotRolledBack(); err != nil {
		return err
	}
	if err := m.notBeforeDecryption(s, h); err != nil {
		return err
	}
	if h.Encrypting() {
		if err := errors.Join(h.RequireProvedKey(), m.refuseEnded(s, h)); err != nil {
			return err
		}
		h = h.Next // it has the key
	}
	if h.Decrypting() && !m.decryptionRecorded(s, h) {
		return decryptionNotRecorded(s)
	}
	if spec.Sealed(h.Token.Source) && h.Token.State == caam.Open {
		if !s.AllowOpenState {
			return fault.Newf(fault.OpenStateRefused, "the volume was made while the chip was open: every open chip can read it, and none can once it is closed")
		}
		j.warn("the volume was made while the chip was open: every open chip can read it, and none can once it is closed")
	}
	return nil
}

// alreadyOpen compares a live mapping of the volume's name with the wanted one. One that
// was never announced was left by a run that was killed before the key was proved: it is
// removed.
func (u *unlocking) alreadyOpen(ctx context.Context) (bool, error) {
	info, err := u.sys.Mapper.Info(u.s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// From here on a signal must not kill the process: a mapping in use may be suspended
	// for a moment.
	heedSignals(ctx)
	if want := dmcrypt.VolumeUUID(u.h.LUKS.UUID, u.s.Mapping); info.UUID != want {
		return false, fault.Newf(fault.MappingMismatch, "mapping %s exists and is not this volume: its uuid is %q, not %q", u.s.Mapping, info.UUID, want)
	}
	announced, err := u.sys.Mapper.Announced(u.s.Mapping)
	if err != nil {
		return false, err
	}
	if !info.Live || unannounced(info, announced) {
		if u.o.DryRun {
			return false, nil
		}
		u.sys.Log.Warn("a mapping that an interrupted run left is made again", "mapping", u.s.Mapping)
		return false, u.sys.Mapper.Remove(ctx, u.s.Mapping)
	}
	live, err := u.sys.Mapper.Table(u.s.Mapping)
	if err != nil {
		return false, err
	}
	if u.h.Next != nil {
		open, err := u.alreadyOpenRotating(ctx, info, live)
		if err == nil && open && !announced && !u.o.DryRun {
			// Its keys were proved before any mapping was made over them.
			err = u.sys.Mapper.Announce(ctx, u.s.Mapping)
		}
		return open, err
	}
	if err := u.compareLive(info, live); err != nil {
		return false, err
	}
	if err := u.proveLive(ctx, info, dmcrypt.Public, side{u.s.Mapping, u.h}); err != nil || u.o.DryRun {
		return err == nil, err
	}
	if info.Suspended {
		slept := u.sys.Slept()
		if err = u.resumeProved(ctx); err == nil {
			u.recordProof(u.s, u.h.LUKS.UUID, slept)
		}
	}
	if err == nil && !announced {
		err = u.announceAgain(ctx)
	}
	return err == nil, err
}

// heedSignals makes a signal end ctx from now on, instead of the process: a command may
// install its handlers when it first asks for its context's end.
func heedSignals(ctx context.Context) { ctx.Done() }

// unannounced reports whether a mapping is not announced and not in use: an unlock is
// at work on it, or was killed.
func unannounced(info dmcrypt.Info, announced bool) bool { return !announced && info.Opens == 0 }

// wantedTable returns the table that the header and the configuration ask for. The length
// of the payload is not known without opening the blob, so it is taken from the live
// table. The description names UUID and generation.
func (u *unlocking) wantedTable(live dmcrypt.Table) (dmcrypt.Table, error) {
	ref := dmcrypt.KeyRef{Type: mapping.KeyType(u.h), Description: mapping.Description(u.h)}
	if len(live) == 1 {
		if crypt, ok := live[0].(dmcrypt.Crypt); ok {
			ref.Size = crypt.Key.Size
		}
	}
	return mapping.DataTable(u.h, u.s, u.c.Data.Number(), ref)
}

// announceSteps says what would be done, after everything that can be checked.
func (u *unlocking) announceSteps(open bool) error {
	if open && u.revived {
		u.j.would("open the key again, prove it, and give it to /dev/mapper/" + u.s.Mapping)
	} else if open {
		u.j.result.Already = true
		u.j.would("do nothing: the volume is unlocked already")
	} else {
		if _, err := u.kernel.UsedByUs(u.s, u.h, u.c.Data); err != nil {
			return err
		}
		u.j.would("open the key and prove it")
		u.j.would("make /dev/mapper/" + u.s.Mapping)
	}
	if !u.o.Mount || u.o.ForRepair {
		return nil
	}
	done, err := u.mountedAlready()
	if err == nil && !done {
		u.j.would("mount it on " + u.s.Mount.Path)
	}
	return err
}

// open imports the key, maps the data privately, proves the key through the
// mapping, and only then shows it to the system.
func (u *unlocking) open(ctx context.Context) error {
	if err := u.kernel.RequireUnused(ctx, u.s, u.h, u.c.Data); err != nil {
		return err
	}
	if u.c.Detached() {
		// A header that a killed run had not flushed must be durable before anything is
		// written to the volume.
		if err := u.c.Header.Flush(); err != nil {
			return err
		}
	}
	if u.h.Next != nil {
		if done, err := u.openRotating(ctx); done || err != nil {
			return err
		}
	}
	key, err := u.openKey(ctx, u.s, u.h)
	if err != nil {
		return err
	}
	defer key.Wipe()
	u.j.did("key opened")

	needsCheck := u.h.Token.Filesystem.Type == "" || !u.s.Filesystem.ProvesKey()
	if u.o.ForRepair && !needsCheck {
		return u.openForRepair(ctx, key)
	}
	switch {
	case needsCheck:
		err = u.proveWithoutFilesystem(ctx, key)
	case u.h.Token.Protected() && u.h.Check.Exists():
		// The CAAM has not been asked yet.
		err = u.proveByCheck(ctx, key)
	}
	if err != nil {
		return err
	}
	a, err := u.kernel.Activate(ctx, u.s.Mapping, dmcrypt.VolumeUUID(u.h.LUKS.UUID, u.s.Mapping), mapping.Description(u.h), key, u.c.Data.ReadOnly(),
		func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
			return mapping.DataTable(u.h, u.s, u.c.Data.Number(), ref)
		})
	if err != nil {
		return err
	}
	u.j.did("table loaded")
	if !needsCheck {
		err = u.proveFast(ctx, a, key)
	}
	if err == nil {
		err = u.sys.Mapper.Announce(ctx, u.s.Mapping)
	}
	if err != nil {
		return errors.Join(err, a.Remove(ctx))
	}
	u.j.did("mapping announced")
	if u.h.Unbound() {
		u.j.warn("the detached header has no check of its key: anyone who can write to " + u.s.Header + " can make it open another volume of this chip; `imxcrypt provision " + u.s.Name + "` adds the check")
	}
	return nil
}

func (u *unlocking) proveWithoutFilesystem(ctx context.Context, key source.Key) error {
	if !u.h.Check.InHeader() {
		return fault.Newf(fault.ConfigInvalid, "only a filesystem proves the key of this detached header, and there is none")
	}
	if err := u.kernel.ProveByCheckArea(ctx, u.s, u.h, u.c, key); err != nil {
		return u.explain(err)
	}
	u.j.did("key proved by its check")
	return nil
}

// proveFast reads the superblock through the mapping. If that proves nothing, the check
// decides.
func (u *unlocking) proveFast(ctx context.Context, a *mapping.Private, key source.Key) error {
	proved, seen := mapping.ProveByFilesystem(u.s, u.h, a)
	if proved && u.h.Token.Filesystem.Type == u.s.Filesystem.Type {
		u.j.did("key proved by its filesystem")
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !u.h.Check.InHeader() {
		if err := u.seenDetached(seen); err != nil {
			return err
		}
		return u.proveByCheck(ctx, key)
	}
	if err := u.kernel.ProveByCheckArea(ctx, u.s, u.h, u.c, key); err != nil {
		return u.explain(err)
	}
	return u.otherFilesystem(ctx, a)
}

// seenDetached enforces that the device showed the filesystem on record, by which a
// detached header recognises its device. seen is the error of looking for it.
func (u *unlocking) seenDetached(seen error) error {
	// With another filesystem in the configuration the key may be right.
	if want := u.h.Token.Filesystem.Type; want != u.s.Filesystem.Type {
		return fault.Newf(fault.FilesystemWrong, "the volume was made with a %s filesystem, the configuration says %s", want, u.s.Filesystem.Type)
	}
	if u.h.FilesystemSeen() {
		return u.h.PermitUnbound(u.s)
	}
	if err := header.NotAHeader(u.c.Data); !fault.Is(err, fault.NotProvisioned) {
		return err
	}
	return u.explain(fault.New(fault.KeyWrong, fmt.Sprintf("the mapping shows no %s filesystem %s: the key is not the volume's, or the filesystem is damaged (imxcrypt unlock --for-repair shows the data read-only)", u.h.Token.Filesystem.Type, u.h.Token.Filesystem.UUID), seen))
}

// proveByCheck proves a key by its check: if the filesystem was not made with this
// volume's identity, as on an adopted volume, or if the hardware has not been asked yet.
func (u *unlocking) proveByCheck(ctx context.Context, key source.Key) error {
	if err := u.kernel.ProveByCheckArea(ctx, u.s, u.h, u.c, key); err != nil {
		return u.explain(err)
	}
	u.j.did("key proved by its check")
	return nil
}

// lookedAt is how many bytes of a volume's data are examined if its filesystem is not
// seen.
const lookedAt = 16 * header.MiB

// otherFilesystem decides about a volume whose key opens the check in its header and
// whose filesystem is not the one that provisioning made: someone with the key put it
// there, or it is damaged, or the header is older than the data.
func (u *unlocking) otherFilesystem(ctx context.Context, a *mapping.Private) error {
	sb, err := mapping.Probe(a)
	want := u.s.Filesystem.Type
	switch {
	case err != nil && mapping.IsDecryptError(err):
		return fault.New(fault.IOFailed, "read "+u.c.Data.Path(), err)
	case err != nil:
		return u.noFilesystem(ctx, a, err)
	case sb.Type != want:
		return fault.Newf(fault.FilesystemWrong, "the volume holds a %s filesystem, the configuration says %s", sb.Type, want)
	}
	if made := u.h.Token.Filesystem.UUID; sb.UUID != made && u.s.Filesystem.ProvesKey() {
		u.j.warn(fmt.Sprintf("the filesystem is not the one provisioning made: its uuid is %q, not %q", sb.UUID, made))
	}
	u.j.did("key proved by its check")
	return nil
}

// noFilesystem distinguishes a damaged filesystem from data under another key than the
// header's. The check in the header cannot: it may be as old as the header.
func (u *unlocking) noFilesystem(ctx context.Context, a *mapping.Private, why error) error {
	want := u.s.Filesystem.Type
	switch seen, err := mapping.SeeData(ctx, u.h, u.c, a, lookedAt); {
	case err != nil:
		return err
	case seen.Proved:
		return fault.New(fault.FilesystemMissing, fmt.Sprintf("the key is right, but the volume holds no sound %s filesystem", want), why)
	case seen.Noise:
		return noiseError(want, why)
	}
	return fault.New(fault.FilesystemMissing, fmt.Sprintf("the key opens the check in the header, but the first %d MiB of the data are blank: there is no %s filesystem", lookedAt/header.MiB, want), why)
}

func noiseError(want string, why error) error {
	return fault.New(fault.KeyWrong, fmt.Sprintf("the key opens the check in the header, but decrypts the data to noise: the header does not belong to the data, or the data was overwritten (imxcrypt unlock --for-repair shows it read-only); no %s filesystem was found", want), why)
}

func (u *unlocking) explain(err error) error { return u.explainRejection(u.s, u.h, err) }

// explainRejection explains a rejected key if the chip's security state is no longer the
// one that the key was made in.
func (m *Manager) explainRejection(s spec.Volume, h *header.Header, err error) error {
	if err == nil || !spec.Sealed(h.Token.Source) || !fault.Is(err, fault.BlobRejected) {
		return err
	}
	now := m.sys.SecurityState()
	switch {
	case h.Token.State == caam.Open && now == caam.Closed:
		return fault.New(fault.BlobOpenState, "this volume was made while the chip was open; it has been closed since, and the data cannot be read", err)
	case h.Token.State == caam.Closed && now == caam.Open:
		return fault.New(fault.BlobOpenState, "this volume was made on a closed chip, and this chip is open", err)
	}
	return err
}

// repairOnDevice repairs a header on the device. It leaves the file of a detached header
// alone: unlocking writes no files, and the file's filesystem may be read-only.
func (u *unlocking) repairOnDevice(ctx context.Context) {
	switch {
	case u.h.Copies.Intact() || u.c.Data.ReadOnly():
	case u.c.Detached():
		u.j.warn(fmt.Sprintf("one copy of the detached header is damaged; `imxcrypt header repair %s` repairs it", u.s.Name))
	default:
		u.Manager.repairCopy(ctx, u.s, u.h, u.j)
	}
}

// repairCopy rewrites a damaged or older header copy from the good one, if it is still
// this volume's. The volume works without that, so a failure is a warning.
func (m *Manager) repairCopy(ctx context.Context, s spec.Volume, h *header.Header, j *runLog) {
	if h.Copies.Intact() {
		return
	}
	err := m.kernel.Unshared(s, h, j.result.Device)
	if err == nil {
		err = m.repairCopyAt(ctx, s, h, j.result.Device)
	}
	if err != nil {
		m.sys.Log.Warn("one copy of the header is damaged and could not be repaired", "volume", s.Name, "error", err)
		j.warn(fmt.Sprintf("one copy of the header is damaged and was not repaired; `imxcrypt header repair %s` repairs it", s.Name))
		return
	}
	j.did("damaged header copy repaired")
}

func (m *Manager) repairCopyAt(ctx context.Context, s spec.Volume, h *header.Header, path string) error {
	release, err := m.kernel.LockHeader(ctx, s, h.LUKS.UUID)
	if err != nil {
		return err
	}
	c, err := m.openContainer(s, path, blockdev.Flags{Write: true, Direct: true})
	if err == nil {
		err = errors.Join(h.RepairOn(c), c.Close())
	}
	return errors.Join(err, release())
}

// mount mounts the volume where the configuration says.
func (u *unlocking) mount(ctx context.Context) error {
	done, err := u.mountedAlready()
	if err != nil {
		return err
	}
	target := u.s.Mount.Path
	if !done {
		options := u.s.Mount.Options
		if err := u.hasImage(ctx); err != nil {
			return err
		}
		if err := u.fitsSectors(); err != nil {
			return err
		}
		if err := u.checkFilesystem(ctx); err != nil {
			return err
		}
		if u.c.Data.ReadOnly() && !slices.Contains(options, "ro") {
			u.j.warn("the device is read-only: the volume is mounted read-only")
			options = append([]string{"ro"}, options...)
		}
		if err := u.sys.Mounts.Mount(u.j.result.Mapping, target, u.s.Filesystem.Type, options); err != nil {
			return err
		}
		u.j.result.Already = false
		u.j.did("mounted")
	}
	u.j.result.Mounted = target
	if u.s.Grow {
		u.growMounted()
	}
	return nil
}

// mountedAlready reports whether the volume is mounted where the configuration says.
// Anything else there that cannot be mounted on is an error.
func (u *unlocking) mountedAlready() (bool, error) {
	if u.s.Mount.Path == "" {
		return false, fault.Newf(fault.ConfigInvalid, "the configuration has no mount point for this volume")
	}
	at, err := u.sys.Mounts.Look(u.s.Mount.Path)
	if err != nil {
		return false, err
	}
	if at.State == mount.TargetOccupied {
		info, err := u.sys.Mapper.Info(u.s.Mapping)
		if err == nil && isMountOf(at.Mounted, info) {
			return true, nil
		}
	}
	return false, at.Usable()
}
