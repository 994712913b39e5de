// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
	"imxcrypt/luks2"
)

// UnlockOptions change how a volume is unlocked.
type UnlockOptions struct {
	// Mount mounts the volume where the configuration says.
	Mount bool
	// ForRepair accepts a missing or damaged filesystem, provided the check
	// area proves the key: for fsck. Such a volume is never mounted. With a
	// detached header nothing else proves the key: the volume is then read-only.
	ForRepair bool
	// NoWait looks for the device once instead of up to the volume's timeout.
	NoWait bool
	// DryRun looks and changes nothing.
	DryRun bool
	// Progress is told of each step when it is done.
	Progress func(Step)
}

// Unlock opens a volume, and mounts it if asked. What is open already is
// compared with what is wanted and left as it is.
func (m *Manager) Unlock(ctx context.Context, s Spec, o UnlockOptions) (Result, error) {
	began := m.sys.Now()
	r, err := m.unlock(ctx, s, o)
	if err == nil {
		m.recordUnlock(s, r, began)
	}
	return r, failed(ctx, "unlock", s, err)
}

func (m *Manager) unlock(ctx context.Context, s Spec, o UnlockOptions) (_ Result, err error) {
	j := m.begin(s, o.Progress)
	if err := s.permitted(); err != nil {
		return j.result, err
	}
	if !o.DryRun {
		release, err := m.sys.Locks.Acquire(ctx, s.Name)
		if err != nil {
			return j.result, err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	path, err := m.find(ctx, s, !o.NoWait)
	if err != nil {
		return j.result, err
	}
	j.did("device found")
	return m.unlockLocked(ctx, s, path, o, j)
}

// unlockLocked unlocks the volume on the device at path. The volume's lock is
// held.
func (m *Manager) unlockLocked(ctx context.Context, s Spec, path string, o UnlockOptions, j *journey) (Result, error) {
	c, h, err := m.openHeader(s, path, blockdev.Flags{Direct: true})
	if err != nil {
		return j.result, err
	}
	defer c.close()
	j.of(h, path)
	if err := m.mayOpen(s, h, j); err != nil {
		return j.result, err
	}
	j.did("header read")

	u := &unlocking{Manager: m, s: s, o: o, j: j, c: c, h: h}
	open, err := u.alreadyOpen(ctx)
	if err != nil {
		return j.result, err
	}
	rotating := h.next != nil
	if o.DryRun {
		return j.result, u.announceSteps(open)
	}
	if open {
		j.result.Already = true
	} else if err := u.open(ctx); err != nil {
		return j.result, err
	} else {
		j.result.opened, j.result.Rotating = true, rotating
	}
	j.result.Mapping = "/dev/mapper/" + s.Mapping
	u.mendOnDevice()
	if o.Mount && !o.ForRepair {
		return j.result, u.mount(ctx)
	}
	return j.result, nil
}

// unlocking is one run over one volume.
type unlocking struct {
	*Manager
	s Spec
	o UnlockOptions
	j *journey
	c *container
	h *header
}

// mayOpen applies the rules that stand before any key is touched.
func (m *Manager) mayOpen(s Spec, h *header, j *journey) error {
	if err := h.matchesRotating(s); err != nil {
		return err
	}
	return m.mayUse(s, h, j)
}

// mayUse is mayOpen without the comparison with the configuration.
func (m *Manager) mayUse(s Spec, h *header, j *journey) error {
	if h.token.Phase == PhaseErasing {
		return refuse(fault.EraseStarted, "the volume was being erased, and that was interrupted")
	}
	if h.token.Phase != PhaseReady {
		return refuse(fault.ProvisioningStarted, "provisioning was interrupted; there is no data in the volume yet")
	}
	if err := h.notRolledBack(); err != nil {
		return err
	}
	if h.token.Source == SourceCAAM && h.token.State == caam.Open {
		if !s.AllowOpenState {
			return refuse(fault.OpenStateRefused, "the volume was made while the chip was open: every open chip can read it, and none can once it is closed")
		}
		j.warn("the volume was made while the chip was open: every open chip can read it, and none can once it is closed")
	}
	return nil
}

// alreadyOpen compares a live mapping of the volume's name with the wanted one.
// One that was never announced belongs to a run that was killed before the key
// was proved: it is taken away.
func (u *unlocking) alreadyOpen(ctx context.Context) (bool, error) {
	info, err := u.sys.Mapper.Info(u.s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// From here on a signal must not kill: what is in use may be suspended for a
	// moment. Who waits for the context's end has them handled.
	_ = ctx.Done()
	if want := dmcrypt.VolumeUUID(u.h.luks.UUID, u.s.Mapping); info.UUID != want {
		return false, refuse(fault.MappingMismatch, "mapping %s exists and is not this volume: its uuid is %q, not %q", u.s.Mapping, info.UUID, want)
	}
	announced, err := u.sys.Mapper.Announced(u.s.Mapping)
	if err != nil {
		return false, err
	}
	if !info.Live || untold(info, announced) {
		if u.o.DryRun {
			return false, nil
		}
		u.sys.Log.Warn("mapping left by an interrupted run is made anew", "mapping", u.s.Mapping)
		return false, u.sys.Mapper.Remove(ctx, u.s.Mapping)
	}
	live, err := u.sys.Mapper.Table(u.s.Mapping)
	if err != nil {
		return false, err
	}
	if u.h.next != nil {
		open, err := u.alreadyOpenRotating(ctx, info, live)
		if err == nil && open && !announced && !u.o.DryRun {
			// Its keys were proved before anything was made over them.
			err = u.sys.Mapper.Announce(ctx, u.s.Mapping)
		}
		return open, err
	}
	if err := u.compareLive(info, live); err != nil || u.o.DryRun {
		return err == nil, err
	}
	if info.Suspended {
		err = u.wake(ctx)
	}
	if err == nil && !announced {
		err = u.nameAgain(ctx)
	}
	return err == nil, err
}

// untold tells of a mapping that nobody was told of and nobody found: an unlock is
// at work on it, or was killed.
func untold(info dmcrypt.Info, announced bool) bool { return !announced && info.Opens == 0 }

// wantedTable is the table that the header and the configuration ask for. The
// length of the payload is not known without importing the blob, so it is
// taken from the live table; the description tells UUID and generation.
func (u *unlocking) wantedTable(live dmcrypt.Table) (dmcrypt.Table, error) {
	ref := dmcrypt.KeyRef{Type: "logon", Description: u.h.description()}
	if len(live) == 1 {
		if crypt, ok := live[0].(dmcrypt.Crypt); ok {
			ref.Size = crypt.Key.Size
		}
	}
	return u.h.dataTable(u.s, u.c.data.Number(), ref)
}

// announceSteps says what would be done, after all that can be looked at.
func (u *unlocking) announceSteps(open bool) error {
	if open {
		u.j.result.Already = true
		u.j.would("do nothing: the volume is unlocked already")
	} else {
		if _, err := u.usedByUs(u.h, u.c.data); err != nil {
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
// mapping, and only then tells the system.
func (u *unlocking) open(ctx context.Context) error {
	if err := u.alone(ctx, u.s, u.h, u.c.data); err != nil {
		return err
	}
	if u.h.next != nil {
		if done, err := u.openRotating(ctx); done || err != nil {
			return err
		}
	}
	key, err := u.openKey(ctx, u.s, u.h)
	if err != nil {
		return err
	}
	defer key.wipe()
	u.j.did("key opened")

	if u.o.ForRepair && !u.h.check.InHeader() {
		return u.openForRepair(ctx, key)
	}
	needsCheck := u.h.token.Filesystem.Type == "" || u.s.Filesystem.Type == FilesystemNone || u.o.ForRepair
	if needsCheck {
		if err := u.proveWithoutFilesystem(ctx, key); err != nil {
			return err
		}
	}
	a, err := u.activate(ctx, u.s.Mapping, dmcrypt.VolumeUUID(u.h.luks.UUID, u.s.Mapping), u.h.description(), key, u.c.data.ReadOnly(),
		func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) { return u.h.dataTable(u.s, u.c.data.Number(), ref) })
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
		return errors.Join(err, a.remove(ctx))
	}
	u.j.did("mapping announced")
	return nil
}

func (u *unlocking) proveWithoutFilesystem(ctx context.Context, key liveKey) error {
	if !u.h.check.InHeader() {
		return refuse(fault.ConfigInvalid, "a detached header proves its key by the filesystem only; there is none to look at")
	}
	if err := u.proveByCheckArea(ctx, u.s, u.h, u.c, key); err != nil {
		return u.explain(err)
	}
	u.j.did("key proved by its check")
	return nil
}

// proveFast reads the superblock through the mapping. What it does not prove,
// the check area decides.
func (u *unlocking) proveFast(ctx context.Context, a *mapped, key liveKey) error {
	proved, seen := u.h.proveByFilesystem(a)
	if proved && u.h.token.Filesystem.Type == u.s.Filesystem.Type {
		u.j.did("key proved by its filesystem")
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !u.h.check.InHeader() {
		// With another filesystem in the configuration the key may be right.
		if want := u.h.token.Filesystem.Type; want != u.s.Filesystem.Type {
			return refuse(fault.FilesystemWrong, "the volume was made with a %s filesystem, the configuration says %s", want, u.s.Filesystem.Type)
		}
		if err := notAHeader(u.c.data); !fault.Is(err, fault.NotProvisioned) {
			return err
		}
		return u.explain(fault.New(fault.KeyWrong, fmt.Sprintf("through the mapping no %s filesystem %s is seen: the key is not the volume's, or the filesystem is damaged (imxcrypt unlock --for-repair shows the data read-only)", u.h.token.Filesystem.Type, u.h.token.Filesystem.UUID), seen))
	}
	if err := u.proveByCheckArea(ctx, u.s, u.h, u.c, key); err != nil {
		return u.explain(err)
	}
	return u.otherFilesystem(a)
}

// otherFilesystem decides about a volume whose key is right and whose
// filesystem is not the one that provisioning made: somebody with the key put
// it there, or it is damaged.
func (u *unlocking) otherFilesystem(a *mapped) error {
	sb, err := probe(a)
	want := u.s.Filesystem.Type
	switch {
	case err != nil && isDecryptError(err):
		return fault.New(fault.IOFailed, "read "+u.c.data.Path(), err)
	case err != nil:
		return fault.New(fault.FilesystemMissing, fmt.Sprintf("the key is right, but the volume holds no sound %s filesystem", want), err)
	case sb.Type != want:
		return refuse(fault.FilesystemWrong, "the volume holds a %s filesystem, the configuration says %s", sb.Type, want)
	}
	if made := u.h.token.Filesystem.UUID; sb.UUID != made {
		u.j.warn(fmt.Sprintf("the filesystem is not the one provisioning made: its uuid is %q, not %q", sb.UUID, made))
	}
	u.j.did("key proved by its check")
	return nil
}

// openKey opens a volume's stored key through its source.
func (m *Manager) openKey(ctx context.Context, s Spec, h *header) (liveKey, error) {
	src, err := m.sourceOf(s)
	if err != nil {
		return nil, err
	}
	key, err := src.open(ctx, h.keyRequest(), h.token.Blob)
	return key, m.explainRejection(s, h, err)
}

func (u *unlocking) explain(err error) error { return u.explainRejection(u.s, u.h, err) }

// explainRejection says what a rejected key means when the chip's security
// state is no longer the one the key was made in.
func (m *Manager) explainRejection(s Spec, h *header, err error) error {
	if err == nil || s.Source != SourceCAAM || !fault.Is(err, fault.BlobRejected) {
		return err
	}
	now := m.sys.SecurityState()
	switch {
	case h.token.State == caam.Open && now == caam.Closed:
		return fault.New(fault.BlobOpenState, "this volume was made while the chip was open; it has been closed since, and the data cannot be read", err)
	case h.token.State == caam.Closed && now == caam.Open:
		return fault.New(fault.BlobOpenState, "this volume was made on a closed chip, and this chip is open", err)
	}
	return err
}

// mendOnDevice mends a header on the device. The file of a detached one is left
// alone: unlocking writes no files, its filesystem may well be read-only.
func (u *unlocking) mendOnDevice() {
	switch {
	case u.h.copies.Intact() || u.c.data.ReadOnly():
	case u.c.detached():
		u.j.warn("one copy of the detached header is damaged; `imxcrypt provision` mends it")
	default:
		u.Manager.mend(u.s, u.h, u.j)
	}
}

// mend rewrites a damaged or older header copy from the good one, if it is
// still this volume's. The volume works without, so a failure is a warning.
func (m *Manager) mend(s Spec, h *header, j *journey) {
	if h.copies.Intact() {
		return
	}
	c, err := m.openContainer(s, j.result.Device, blockdev.Flags{Write: true, Direct: true})
	if err == nil {
		err = errors.Join(h.mendOn(c), c.close())
	}
	if err != nil {
		m.sys.Log.Warn("one copy of the header is damaged and could not be mended", "volume", s.Name, "error", err)
		j.warn("one copy of the header is damaged and could not be mended")
		return
	}
	j.did("damaged header copy mended")
}

func (h *header) mendOn(c *container) error {
	there, err := readHeader(c)
	if err != nil {
		return err
	}
	if there.luks.UUID != h.luks.UUID {
		return refuse(fault.HeaderMismatch, "%s holds the header of uuid %q where %q was read", c.header.Path(), there.luks.UUID, h.luks.UUID)
	}
	_, err = luks2.Mend(c.header)
	return err
}

// mount puts the volume where the configuration says.
func (u *unlocking) mount(ctx context.Context) error {
	done, err := u.mountedAlready()
	if err != nil {
		return err
	}
	target := u.s.Mount.Path
	if !done {
		options := u.s.Mount.Options
		if err := u.checkFilesystem(ctx); err != nil {
			return err
		}
		if u.c.data.ReadOnly() {
			options = append([]string{"ro"}, options...)
		}
		if err := u.sys.Mounts.Mount(u.j.result.Mapping, target, u.s.Filesystem.Type, options); err != nil {
			return err
		}
		u.j.result.Already = false
		u.j.did("mounted")
	}
	u.j.result.Mounted = target
	return nil
}

// mountedAlready tells whether the volume is mounted where the configuration
// says; anything else that stands there, and cannot be mounted on, is an error.
func (u *unlocking) mountedAlready() (bool, error) {
	if u.s.Mount.Path == "" {
		return false, refuse(fault.ConfigInvalid, "the configuration has no mount point for this volume")
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
