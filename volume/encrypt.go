// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// Encrypt turns a device with a plaintext filesystem into a volume: its data is encrypted
// in place, and the filesystem keeps its files and its UUID. Encrypt continues an
// interrupted run. When ctx is cancelled, it stops cleanly at the next zone, with an
// error of code interrupted.
//
// It is a rotation whose old side is the device itself. Wherever it is interrupted,
// either the device is the plain filesystem as it was, or the volume opens:
//
//  1. the header file appears, with the records and a key that is not yet proved; nothing
//     opens the volume with it, and the device is in plaintext (for a header on the
//     device see createOnDevice)
//  2. the key is proved from storage, and its check is in the header. From here on the
//     volume opens, with all data on the plain side
//  3. zone after zone is moved, starting at the superblock; the record says which
//  4. the key is proved once more, and the header becomes an ordinary one
func (m *Manager) Encrypt(ctx context.Context, s spec.Volume, o RotateOptions) (RotateResult, error) {
	r, err := m.encrypt(ctx, s, o)
	return r, Failed(ctx, "encrypt", s, err)
}

func (m *Manager) encrypt(ctx context.Context, s spec.Volume, o RotateOptions) (r RotateResult, err error) {
	if err := inPlaceable(s); err != nil {
		return RotateResult{Result: m.begin(s, nil).result}, err
	}
	return m.inPlace(ctx, s, o, func(x *rotating, path string) error { return x.encryptHere(ctx, path) })
}

// encryptHere is Encrypt for the device at path, once its header has been looked for.
func (x *rotating) encryptHere(ctx context.Context, path string) error {
	shrunk := false
	if x.h == nil && !x.started {
		var err error
		if shrunk, err = x.continueShrink(ctx, path); err != nil || shrunk && x.o.DryRun {
			return err
		}
	}
	switch {
	case x.ending != nil:
		return x.ending
	case x.started && x.o.DryRun:
		x.j.would("write the header to " + path)
		return nil
	case x.started:
		return x.continueStart(ctx, path)
	case x.h == nil && x.o.ResumeOnly:
		x.j.result.Already = !shrunk
		if x.o.DryRun {
			return nil
		}
		return x.dropLogs(ctx, path)
	case x.h == nil:
		return x.encryptNew(ctx, path)
	case x.h.Decrypting():
		return fault.Newf(fault.RotationUnderWay, "the volume is being decrypted: `imxcrypt decrypt %s` continues that", x.s.Name)
	case x.h.Encrypting():
		return x.continueInPlace(ctx)
	}
	return x.encryptedAlready(ctx)
}

// inPlaceable returns an error if a volume of this configuration cannot be encrypted or
// decrypted in place.
func inPlaceable(s spec.Volume) error {
	if s.Ephemeral() {
		return noHeader()
	}
	if !s.Filesystem.ProvesKey() {
		return fault.Newf(fault.ConfigInvalid, "a volume with filesystem: %s cannot be encrypted in place: nothing would prove its key", s.Filesystem)
	}
	return s.Permitted()
}

// foundAfterwards refuses a device that is found by the filesystem on it: once encrypted
// it shows none, and the volume would not be found again.
func foundAfterwards(s spec.Volume) error {
	if blockdev.ByContent(s.Device) {
		return fault.Newf(fault.ConfigInvalid, "device: %s is found by its filesystem, which is no longer visible once it is encrypted: name it by PARTLABEL=, PARTUUID= or its path", s.Device)
	}
	return nil
}

// inPlace calls do for a volume, holding its lock except in a dry run; x.h is nil if
// there is no header.
func (m *Manager) inPlace(ctx context.Context, s spec.Volume, o RotateOptions, do func(x *rotating, path string) error) (r RotateResult, err error) {
	j := m.begin(s, o.Progress)
	x := &rotating{Manager: m, s: s, o: o, j: j}
	defer func() { r.Result, r.Rotation = j.result, x.progress }()
	release, err := m.acquire(ctx, s, o.DryRun)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, release()) }()
	path, err := m.find(ctx, s, true)
	if err != nil {
		return r, err
	}
	return r, x.onFound(path, do)
}

// locked calls do, which makes mappings, with the volume's lock held. A dry run holds it
// only here.
func (x *rotating) locked(ctx context.Context, do func() error) (err error) {
	if !x.o.DryRun {
		return do()
	}
	release, err := x.sys.Locks.Acquire(ctx, x.s.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return do()
}

// onFound calls do for the device at path. The caller holds the volume's lock, except in
// a dry run.
func (x *rotating) onFound(path string, do func(x *rotating, path string) error) (err error) {
	x.j.result.Device = path
	defer func() {
		if x.c != nil {
			err = errors.Join(err, x.c.Close())
		}
	}()
	err = x.open(path)
	switch {
	case err == nil, fault.Is(err, fault.NotProvisioned) && x.c == nil:
	case x.s.Detached():
		return err
	case fault.Is(err, fault.EncryptionStarted):
		x.started = true
	case fault.Is(err, fault.DecryptionEnding):
		x.ending = err
	case !fault.Is(err, fault.PlaintextFound) && !fault.Is(err, fault.NotProvisioned) && !fault.Is(err, fault.ShrinkStarted):
		return err
	}
	return do(x, path)
}

// open opens what the volume is stored on and reads its header.
func (x *rotating) open(path string) (err error) {
	if x.c, err = x.openContainer(x.s, path, rotationFlags(!x.o.DryRun)); err != nil {
		x.c = nil
		return err
	}
	if x.h, err = header.Read(x.c); err != nil {
		return err
	}
	x.j.identify(x.h, path)
	x.s = x.s.For(x.newest().Token.Source, x.newest().Segment.Encryption)
	return nil
}

// continueInPlace continues an encryption or decryption that is under way.
func (x *rotating) continueInPlace(ctx context.Context) error {
	if err := x.h.MatchesRotating(x.s); err != nil {
		return err
	}
	if err := x.mayUse(x.s, x.h, x.j); err != nil && !fault.Is(err, fault.EncryptionStarted) {
		return err
	}
	return x.moveInUse(ctx)
}

// encryptedAlready checks that the existing header is that of the device. Like a run that
// encrypts, it leaves the volume mounted if asked: power may have been cut right after an
// earlier run had finished.
func (x *rotating) encryptedAlready(ctx context.Context) error {
	if err := header.Plaintext(x.c.Data); err != nil && x.c.Detached() {
		if !fault.Is(err, fault.PlaintextFound) {
			return err
		}
		return fault.New(fault.FileExists, fmt.Sprintf("%s exists already, with the header of the volume %q, uuid %q, and the device is in plain text", x.s.Header, x.h.LUKS.Label, x.h.LUKS.UUID), err)
	}
	mounts := x.o.Mount && !x.o.InitOnly && !x.o.ResumeOnly
	if mounts && !x.o.DryRun {
		_, err := x.unlockLocked(ctx, x.s, x.c.Data.Path(), UnlockOptions{Mount: x.s.Mount.Path != ""}, x.j)
		return err
	}
	if err := x.mayOpen(x.s, x.h, x.j); err != nil {
		return err
	}
	u := &unlocking{Manager: x.Manager, s: x.s, o: UnlockOptions{DryRun: true, Mount: mounts && x.s.Mount.Path != ""}, j: x.j, c: x.c, h: x.h, revives: mounts}
	open, err := u.alreadyOpen(ctx)
	if err == nil && !open {
		err = x.locked(ctx, func() error { return x.proveOpens(ctx, x.s, x.h.KeySide(), x.c) })
	}
	if err == nil && mounts {
		return u.announceSteps(open)
	}
	x.j.result.Already = err == nil
	return err
}

// encryptNew makes the key and the header for a plaintext device, and moves its data.
func (x *rotating) encryptNew(ctx context.Context, path string) error {
	if err := foundAfterwards(x.s); err != nil {
		return err
	}
	if !x.o.Force {
		if err := x.requireNotMadeBefore(x.s, path); err != nil {
			return err
		}
	}
	instead := openSource(&x.s)
	s, why, err := x.chosen(ctx, x.s, false, x.j)
	if err != nil {
		return err
	}
	x.s = s
	src, err := x.sources.Of(x.s)
	if err != nil {
		return err
	}
	state, err := x.stateAllowed()
	if err != nil {
		return err
	}
	if err := (&provisioning{Manager: x.Manager, s: x.s}).nameFree(nil); err != nil {
		return err
	}
	if err := x.requireLasting(); err != nil {
		return err
	}
	if !x.o.DryRun { // a killed run may have left some on the device
		if _, err := x.kernel.RemovePrivate(ctx, x.s); err != nil {
			return err
		}
	}
	x.lenient = x.unattended
	h, err := x.surveyPlain(path, state, true)
	if err == nil {
		err = x.mountable()
	}
	if err == nil && x.shrinkTo > 0 {
		err = x.mayShrink(path)
	}
	if err == nil {
		err = x.locked(ctx, func() error { return x.tryChosen(ctx, x.s, instead && why != "") })
	}
	if err == nil {
		// The trial's key may have shown a state that the fuses do not.
		if state, err = x.stateAllowed(); err == nil {
			h.Next.Token.State = state
		}
	}
	if err == nil && x.unattended {
		h, err = x.beforeUnattended(ctx, h, path, state)
	}
	if err != nil {
		return err
	}
	if x.o.DryRun {
		if why != "" {
			x.j.would("choose " + why)
		}
		if x.shrinkTo > 0 {
			x.announceShrink(path)
		}
		x.announceStart(h, path)
		return nil
	}
	if why != "" {
		x.j.did("chosen: " + why)
	}
	if x.shrinkTo > 0 {
		if err := x.shrink(ctx, path); err != nil {
			return err
		}
		if h, err = x.surveyPlain(path, state, false); err != nil {
			return err
		}
	}
	if err := x.dropLogs(ctx, path); err != nil {
		return err
	}
	if err := x.createHeader(ctx, src, h, path); err != nil {
		return err
	}
	return x.moveInUse(ctx)
}

// moveInUse moves the data, after unlocking and mounting the volume if that is requested.
func (x *rotating) moveInUse(ctx context.Context) error {
	if !x.o.Mount || x.o.InitOnly || x.o.DryRun {
		return x.run(ctx)
	}
	if x.h.RequireProvedKey() != nil {
		x.o.InitOnly = true
		if err := x.run(ctx); err != nil {
			return err
		}
		x.o.InitOnly = false
	}
	if _, err := x.unlockLocked(ctx, x.s, x.c.Data.Path(), UnlockOptions{Mount: x.s.Mount.Path != ""}, x.j); err != nil {
		return err
	}
	x.j.result.Already, x.j.result.Rotating = false, false
	return x.run(ctx)
}

// mountable checks that the volume can be mounted once it exists.
func (x *rotating) mountable() error {
	if !x.o.Mount || x.s.Mount.Path == "" {
		return nil
	}
	target, err := x.sys.Mounts.Look(x.s.Mount.Path)
	return errors.Join(err, target.Usable())
}

// announceStart announces the steps that a dry run found.
func (x *rotating) announceStart(h *header.Header, path string) {
	on, protected, rate := x.s.Header, "in place, protected by a journal", int64(journalRate)
	if !x.s.Detached() {
		on, rate = path, gapRate
		protected = fmt.Sprintf("while they move up by %d bytes", h.Next.Segment.Offset)
		x.j.would(fmt.Sprintf("keep the first %d bytes of the filesystem at byte %d", h.LUKS.Area(), h.Moved))
		x.j.would(fmt.Sprintf("overwrite the rest of the device from byte %d, which does not belong to the filesystem", h.Segment.Size))
	}
	x.j.would(fmt.Sprintf("create a key of %d bytes, source %s, and write a header to %s", x.s.KeySize, x.s.Source, on))
	x.j.would(fmt.Sprintf("encrypt %d bytes of %s %s; %s", h.Segment.Size, path, protected, durationAt(h.Segment.Size, rate)))
}

// journalRate and gapRate are how many bytes a second are moved through a journal, and
// through a gap with the volume in use, as measured with emulated hardware
// (docs/encrypt.md).
const (
	journalRate = 18 * header.MiB
	gapRate     = 48 * header.MiB
)

// durationAt says how long moving size bytes takes.
func durationAt(size, rate int64) string {
	return fmt.Sprintf("at %d MiB/s, as measured with emulated hardware, that takes about %v", rate/header.MiB, time.Duration(size/rate+1)*time.Second)
}

// surveyPlain examines a plaintext device that no one else uses, and makes its header in
// memory, still without the key. If an ext4 filesystem leaves too little room and shrinks
// is true, it is to be made smaller: shrinkTo is then set.
func (x *rotating) surveyPlain(path string, state caam.SecurityState, shrinks bool) (h *header.Header, err error) {
	if x.s.Filesystem.Type == "" {
		return nil, fault.Newf(fault.ConfigInvalid, "the configuration names no filesystem")
	}
	dev, err := x.sys.Devices.Open(path, blockdev.Flags{Write: !x.o.DryRun, Exclusive: true, Direct: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	sb, err := x.plainFilesystem(dev)
	if err != nil {
		return nil, err
	}
	l, moved, err := x.placeOver(dev, sb, shrinks)
	if err != nil {
		return nil, err
	}
	uuid := x.s.UUID
	if uuid == "" {
		if uuid, err = x.newUUID(); err != nil {
			return nil, err
		}
	}
	token := header.Token{
		Source: x.s.Source, Generation: 1, Wrap: caam.Wrap(x.s.KeyWrap()), KeySize: x.s.KeySize, State: state, Created: x.sys.Now(),
		Filesystem: header.FilesystemID{Type: sb.Type, UUID: sb.UUID},
	}
	if h, err = header.NewEncrypting(x.s, uuid, l, moved, token); err != nil {
		return nil, err
	}
	_, err = h.Layout(x.storageOn(dev))
	return h, err
}

// storageOn returns the volume's storage, as far as the layout of its data depends on it.
func (x *rotating) storageOn(dev header.Device) *header.Storage {
	if x.s.Detached() {
		return &header.Storage{Data: dev}
	}
	return &header.Storage{Data: dev, Header: dev}
}

// plainFilesystem checks that a device holds the filesystem that the configuration names,
// sound and cleanly unmounted. With lenient set, it accepts an unclean one and sets
// unclean.
func (x *rotating) plainFilesystem(dev header.Device) (*fsprobe.Superblock, error) {
	if x.s.Detached() {
		// The superblock may be there still, beside a part of a header.
		if _, state, err := header.FindStart(dev); err != nil {
			return nil, err
		} else if state != header.StartNone {
			return nil, fault.Newf(fault.ConfigInvalid, "header: %s: a header on %s itself was being written, or removed, when that was interrupted, and the filesystem's first bytes are partly replaced: set header: device, as it was then, and run the interrupted command again", x.s.Header, dev.Path())
		}
	}
	what, err := fsprobe.Signature(dev, dev.Size())
	if err != nil {
		return nil, fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	want := x.s.Filesystem.Type
	switch what {
	case want:
	case "":
		return nil, fault.Newf(fault.NotProvisioned, "%s holds no filesystem that could be encrypted", dev.Path())
	case "luks1", "luks2":
		return nil, header.NotAHeader(dev)
	default:
		return nil, fault.Newf(fault.FilesystemWrong, "%s holds %s, the configuration says %s", dev.Path(), what, want)
	}
	sb, err := fsprobe.Read(dev, dev.Size())
	switch {
	case err != nil:
		return nil, err
	case !sb.Verified || sb.UUID == "":
		return nil, fault.Newf(fault.FilesystemWrong, "the %s filesystem on %s cannot be verified: %s", sb.Type, dev.Path(), sb.Proof)
	case sb.Sector < x.s.SectorSize:
		return nil, fault.Newf(fault.DeviceUnsuitable, "the %s filesystem writes in pieces of %d bytes, and cannot stand on sectors of %d: set sector_size: %d", sb.Type, sb.Sector, x.s.SectorSize, sb.Sector)
	case (sb.NeedsCheck || sb.Unclean) && x.lenient:
		x.unclean = true
	case sb.NeedsCheck || sb.Unclean:
		return nil, fault.Newf(fault.FilesystemUnclean, "the %s filesystem on %s was not unmounted cleanly, or has recorded errors", sb.Type, dev.Path())
	}
	return sb, nil
}

// stillPlain checks, before the first byte of a locked volume is moved, that the device
// is still what the header was made for: it may have been mounted and changed, or
// swapped, since.
func (x *rotating) stillPlain() error {
	sb, err := x.plainFilesystem(x.c.Data)
	if err != nil {
		return err
	}
	if want := x.h.Token.Filesystem; sb.UUID != want.UUID {
		return fault.Newf(fault.FilesystemWrong, "%s holds the %s filesystem %s, and %s was made for %s", x.c.Data.Path(), sb.Type, sb.UUID, x.s.Header, want.UUID)
	}
	if sb.Size > x.h.Segment.Size {
		return fault.Newf(fault.FilesystemWrong, "the %s filesystem on %s has grown to %d bytes, and %s was made for %d: nothing is encrypted yet, so remove that file and encrypt again",
			sb.Type, x.c.Data.Path(), sb.Size, x.s.Header, x.h.Segment.Size)
	}
	return nil
}

// sameKey checks that the key under a live volume is the one that was proved just now. As
// long as the filesystem is seen in plaintext, it does not show whether a suspend has
// killed that key, and data encrypted with a dead key would be lost.
func (x *rotating) sameKey(ctx context.Context, k *mapping.Stack, h *header.Header, suffix string, n dmcrypt.Number, key source.Key) error {
	live := &mapping.Private{K: x.kernel, Name: k.Name(suffix), Num: n}
	same, err := x.sameThrough(ctx, x.s, h, x.c, live, key)
	if err != nil || same {
		return err
	}
	return lostKey(x.s, dead, nil)
}

// endEncryption makes the header that of an ordinary volume, in memory, with a check that
// says so. The block from which that check is derived must fit the current check:
// otherwise, if the key has died in between, the new check would refuse the right key
// from then on. The plaintext in the journal is overwritten.
func (x *rotating) endEncryption(ctx context.Context, h *header.Header, key source.Key) (*header.Header, error) {
	if h.Moved > 0 {
		return x.endOnDevice(ctx, h, key)
	}
	block, err := x.kernel.ReadCheck(ctx, x.s, h.Next, x.c, key)
	if err != nil {
		return nil, fmt.Errorf("derive the check: %w", err)
	}
	if !h.Next.Check.Fits(block, h.Next.Binding()) {
		return nil, fault.Newf(fault.KeyWrong, "the key that was proved a moment ago no longer matches its check")
	}
	done := h.EndRotation()
	done.Check.Digest = header.Derive(block, done.Binding())
	if err := errors.Join(blockdev.Zero(ctx, x.c.Header, header.RotationJournalOffset, h.LUKS.Area()), x.c.Header.Flush()); err != nil {
		return nil, fault.New(fault.IOFailed, "overwrite the journal in "+x.s.Header, err)
	}
	return done, nil
}
