// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// RestoreOptions change how a header is restored.
type RestoreOptions struct {
	// Force permits an older generation than the device shows, if the filesystem proves
	// the key; a key that only blocks of the data prove, if nothing on the device
	// contradicts it; a check in the backup that cannot be read because there is no loop
	// device; a backup from before a resize; a backup of a volume that, by the record,
	// was replaced by another; and overwriting another volume's damaged header, a foreign
	// header or a filesystem in the header's place.
	Force bool
	// Keep is the file to keep the replaced header in; empty for one in the state
	// directory.
	Keep string
	// Confirm is called, with a sentence for a person, before something is overwritten;
	// its error is the result. If Confirm is nil, overwriting is refused.
	Confirm func(what string) error
	DryRun  bool
	// Progress is called for each step when it is done.
	Progress func(Step)
}

// RestoreHeader restores a header from a file that BackupHeader made. Before anything is
// written, it examines what is on the device, also behind a damaged or absent header: a
// rotation that has moved data, or a newer key, rules out the backup. The backup's key
// must open on this chip, and the data must prove it: the volume's filesystem is seen
// through it, or it opens the check that is on the device, or, with Force, it makes sense
// of the data. What is replaced is kept in a file. If the restore is interrupted, the
// same command finishes it.
func (m *Manager) RestoreHeader(ctx context.Context, s spec.Volume, file string, o RestoreOptions) (Result, error) {
	j := m.begin(s, o.Progress)
	// Do this before waiting for the device: waiting does not make a missing file appear,
	// nor turn another file into a backup.
	area, err := m.sys.Files.Read(file, atomicfile.ReadOptions{MaxSize: header.MaxHeaderArea, FollowLinks: true})
	if errors.Is(err, fs.ErrNotExist) {
		err = fault.New(fault.FileMissing, "the backup", err)
	}
	t := &restoring{Manager: m, s: s, o: o, j: j, file: file, area: area}
	if s.Ephemeral() {
		err = noHeader()
	}
	if err == nil {
		err = t.readBackup(anyDevice)
	}
	if err == nil {
		err = m.onDevice(ctx, s, func(path string) error {
			t.path = path
			return t.restore(ctx)
		})
	}
	return j.result, Failed(ctx, "header restore", s, err)
}

// restoring is one run on one volume.
type restoring struct {
	*Manager
	s    spec.Volume
	o    RestoreOptions
	j    *runLog
	path string

	file   string // the backup
	area   []byte // its bytes
	backup *header.Header
	c      *header.Storage
	// before is what is there now, to be kept; empty if there is nothing to keep.
	before []byte
	// older is set if the device shows a newer key than the backup's.
	older bool
	// another is the error if the damaged header of another volume is there.
	another error
	// witnessed is set if the device shows that no rotation has begun since the backup
	// was made, so that its check is that of the key that the data is under.
	witnessed bool
	// what says what is overwritten; empty if nothing is lost.
	what string
}

func (t *restoring) restore(ctx context.Context) (err error) {
	if err := t.readBackupFor(t.path); err != nil {
		return err
	}
	t.j.identify(t.backup, t.path)
	if t.c, err = t.openThere(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.c.Close()) }()
	if err := t.survey(); err != nil {
		return err
	}
	if t.j.result.Already {
		return t.forgetErase()
	}
	if t.s.Detached() && t.c.Header != nil {
		if err := t.sys.Files.Settle(t.s.Header); err != nil {
			return err // a link cannot be replaced
		}
	}
	if err := t.proveBefore(ctx); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	if t.what != "" {
		if t.o.Confirm == nil {
			return fault.Newf(fault.ConfirmationNeeds, "%s: not confirmed", t.what)
		}
		if err := t.o.Confirm(t.what); err != nil {
			return err
		}
	}
	if t.o.DryRun {
		if kept := keptPath(t.s, t.o.Keep, t.before); kept != "" {
			t.j.would("keep what is there in " + kept)
		}
		t.j.would("write the header of generation " + fmt.Sprint(t.backup.Token.Generation) + " to " + t.place())
		return nil
	}
	return t.run(ctx)
}

func (t *restoring) place() string {
	if t.s.Detached() {
		return t.s.Header
	}
	return t.path
}

// anyDevice is a size in bytes that any header fits.
const anyDevice = 1 << 60

// readBackupFor is readBackup for the device at path.
func (t *restoring) readBackupFor(path string) error {
	dev, err := t.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return err
	}
	size := dev.Size()
	if err := dev.Close(); err != nil {
		return err
	}
	return t.readBackup(size)
}

// readBackup parses the backup, and checks it against the device's size in bytes and the
// configuration.
func (t *restoring) readBackup(size int64) (err error) {
	file, area := t.file, t.area
	var lh *luks2.Header
	var copies luks2.Copies
	if t.s.Detached() {
		lh, copies, err = luks2.ReadDetached(header.NewImage(area, int64(len(area))), int64(len(area)), size)
	} else {
		lh, copies, err = luks2.Read(header.NewImage(area, size), size)
	}
	if errors.Is(err, luks2.ErrNotLUKS) {
		return fault.New(fault.HeaderInvalid, file+" is not a header backup", err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if t.backup, err = header.Understand(lh, copies, file); err != nil {
		return err
	}
	if int64(len(area)) != lh.Area() {
		return fault.Newf(fault.HeaderInvalid, "%s has %d bytes, its header area %d: it was cut, or is not a header backup", file, len(area), lh.Area())
	}
	if err := t.backup.SameVolume(t.s, file); err != nil {
		return err
	}
	if err := t.backup.Keepable(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := t.backup.ReadReached(header.NewImage(area, int64(len(area)))); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := t.backup.NotRolledBack(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if _, err := luks2.Repair(header.NewImage(area, int64(len(area)))); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return t.backup.Matches(t.s)
}

// openThere opens the device and what holds the header there. If a detached header is
// missing, the result has no Header.
func (t *restoring) openThere() (*header.Storage, error) {
	c, err := t.openContainer(t.s, t.path, blockdev.Flags{Direct: true})
	if err == nil || !t.s.Detached() || !fault.Is(err, fault.NotProvisioned) && !fault.Is(err, fault.EraseStarted) {
		return c, err
	}
	data, err := t.sys.Devices.Open(t.path, blockdev.Flags{Direct: true})
	if err != nil {
		return nil, err
	}
	return &header.Storage{Data: data}, nil
}

// proveBefore proves the backup's key by what is on the device.
func (t *restoring) proveBefore(ctx context.Context) error {
	if t.o.DryRun {
		if _, err := t.kernel.UsedByUs(t.s, t.backup, t.c.Data); err != nil {
			return err
		}
	} else if err := t.kernel.RequireUnused(ctx, t.s, t.backup, t.c.Data); err != nil {
		return err
	}
	key, err := t.openKey(ctx, t.s, t.backup)
	if err != nil {
		return err
	}
	defer key.Wipe()
	t.j.did("the blob in the backup opens")
	switch reason := t.proveByData(ctx, key); {
	case reason == nil:
		t.j.did("key proved")
		return nil
	case t.older && fault.Is(reason, fault.KeyWrong):
		return fault.New(fault.RollbackRefused, "the data is not under the older key in the backup", reason)
	case t.another != nil && fault.Is(reason, fault.KeyWrong):
		return errors.Join(t.another, reason)
	default:
		return reason
	}
}

// proveByData looks for the volume's filesystem through the key. If it is not seen, the
// key must open the check that is on the device. The backup's own check says nothing
// about the data: a rotation may have moved it since.
func (t *restoring) proveByData(ctx context.Context, key source.Key) error {
	h := t.backup
	why := errors.New("the volume has no filesystem to test the key with")
	if h.Token.Filesystem.Type != "" {
		var proved bool
		var seen error
		err := t.kernel.WithData(ctx, t.s, h, t.c.Data.Number(), key, func(a *mapping.Private) error {
			if proved, seen = mapping.ProveByFilesystem(t.s, h, a); seen == nil {
				return nil
			}
			size, err := mapping.Beyond(h, a)
			if size != 0 {
				proved = h.OwnFilesystemSeen()
				t.j.warn(fmt.Sprintf("the backup is from before a resize: the %s filesystem has %d bytes. `imxcrypt resize %s` gives the volume its size again", h.Token.Filesystem.Type, size, t.s.Name))
			}
			return err
		})
		if err != nil {
			return err
		}
		// The filesystem of an adopted or renamed volume was not made with the volume's
		// identity, but it is the one on record. The check in the backup then binds the
		// key to the header.
		if proved || h.FilesystemSeen() {
			return errors.Join(h.PermitUnbound(t.s), t.notMoved(), t.proveByBackup(ctx, key))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if why = seen; mapping.IsDecryptError(why) && h.Token.Protected() {
			// The device can be read, so it is the key, which is used here for the first
			// time.
			if _, err := t.c.Data.ReadAt(make([]byte, header.BlockAlign), h.Segment.Offset); err == nil {
				return t.explainRejection(t.s, h, mapping.NotDecrypted(h, why))
			}
		}
		if why == nil {
			why = fmt.Errorf("the key does not show its %s filesystem", h.Token.Filesystem.Type)
		}
	}
	if h.Check.InHeader() && t.witnessed {
		return t.explainRejection(t.s, h, t.kernel.ProveByCheckArea(ctx, t.s, h, t.c, key))
	}
	if t.o.Force && !t.older && t.another == nil {
		return t.proveByBlocks(ctx, key, why)
	}
	return t.unproved(why)
}

func (t *restoring) unproved(why error) error {
	return fault.New(fault.KeyWrong, fmt.Sprintf("nothing on %s proves that its data is under the key in the backup", t.path), why)
}

// proveByBlocks looks for a block of the data that the key makes sense of. A rotation
// since the backup was made would have moved the first zone, or written to the gap, so
// blocks elsewhere that are still under the old key prove nothing.
func (t *restoring) proveByBlocks(ctx context.Context, key source.Key, why error) error {
	if err := t.notMoved(); err != nil {
		return err
	}
	limit, inPlace := t.backup.Segment.Size, t.s.Detached()
	if !inPlace {
		l, err := t.backup.PlanRotation(t.s, t.c)
		inPlace = err == nil && l.Mode == reencrypt.Journal
	}
	if inPlace {
		// The first record of moved data covers at least a quarter of the longest zone
		// (package reencrypt).
		limit = min(int64(len(t.area))-header.RotationJournalOffset, header.MaxZone) / 4 / header.BlockAlign * header.BlockAlign
	}
	var seen mapping.Shown
	err := t.kernel.WithData(ctx, t.s, t.backup, t.c.Data.Number(), key, func(a *mapping.Private) (err error) {
		seen, err = mapping.SeeData(ctx, t.backup, t.c, a, limit)
		return err
	})
	if err != nil {
		return err
	}
	if !seen.Proved {
		return t.unproved(fmt.Errorf("%w, and no block makes sense when decrypted with it", why))
	}
	t.j.warn(fmt.Sprintf("the key is proved by the block at byte %d of the volume alone: look at the files before anything is written to it", seen.At))
	return t.proveByBackup(ctx, key)
}

// proveByBackup has the key open the check in the backup, which binds it to the header,
// if later unlocks will require that: with a detached header, and if the filesystem was
// not made with the volume's identity.
func (t *restoring) proveByBackup(ctx context.Context, key source.Key) (err error) {
	h, as, path := t.backup, t.s, t.file
	switch {
	case h.Check.Derived:
		as.Header = t.file
	case !h.Check.InHeader() || h.OwnFilesystemSeen():
		return nil
	case t.checkIsThere():
		return t.explainRejection(t.s, h, t.kernel.ProveByCheckArea(ctx, t.s, h, t.c, key))
	default:
		loop, closer, attachErr := t.attachBackup()
		if attachErr != nil && t.o.Force {
			t.j.warn(fmt.Sprintf("the check in the backup was not looked at (%v): the volume opens only if the key fits it", attachErr))
			return nil
		}
		if attachErr != nil {
			return fmt.Errorf("%w (--force restores it without a look at its check)", attachErr)
		}
		defer func() { err = errors.Join(err, closer.Close()) }()
		path = loop
	}
	dev, err := t.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return err
	}
	err = t.kernel.ProveByCheckArea(ctx, as, h, &header.Storage{Data: t.c.Data, Header: dev}, key)
	return errors.Join(t.explainRejection(t.s, h, err), dev.Close())
}

// checkIsThere reports whether the backup's check is already in its place on the device,
// so that reading it needs no loop device.
func (t *restoring) checkIsThere() bool {
	at := t.backup.Check.Offset
	end := at + t.backup.Check.Size
	return end <= int64(min(len(t.before), len(t.area))) && bytes.Equal(t.before[at:end], t.area[at:end])
}

// attachBackup attaches a loop device to the backup.
func (t *restoring) attachBackup() (string, io.Closer, error) {
	if t.sys.Attach == nil {
		return "", nil, fault.Newf(fault.DeviceUnsuitable, "there are no loop devices here to map a part of %s with", t.file)
	}
	loop, closer, err := t.sys.Attach(t.file)
	if err != nil {
		return "", nil, fmt.Errorf("a loop device for the check in %s: %w", t.file, err)
	}
	return loop, closer, nil
}

// run replaces what is there. The keyslots area is written first: that overwrites the
// record of an erase, which must be gone by the time a header is there.
func (t *restoring) run(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Open it before keeping anything: that shows that no one else has it and that it can
	// be written.
	dev, err := t.openForWriting()
	if err != nil {
		return err
	}
	if t.j.result.Kept, err = t.keepArea(t.s, t.o.Keep, t.before); err == nil {
		err = t.put(dev)
	}
	if dev != nil {
		err = errors.Join(err, dev.Close())
	}
	if err == nil {
		t.j.did("header written")
		err = t.readBack()
	}
	if err != nil {
		return t.explainKept(err)
	}
	t.j.did("header read back")
	t.j.keeps(t.o.Keep)
	return t.forgetErase()
}

// explainKept adds to an error where the replaced header is kept.
func (t *restoring) explainKept(err error) error {
	if t.j.result.Kept == "" {
		return err
	}
	return fmt.Errorf("%w (what was there is kept in %s)", err, t.j.result.Kept)
}

// openForWriting opens the device exclusively; it returns nil for a detached header.
func (t *restoring) openForWriting() (header.Device, error) {
	if t.s.Detached() {
		return nil, nil
	}
	return t.sys.Devices.Open(t.path, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
}

// put writes the backup.
func (t *restoring) put(dev header.Device) error {
	if dev == nil {
		return t.sys.Files.Replace(t.s.Header, t.area, 0o600)
	}
	slots, _ := t.backup.LUKS.KeyslotsArea()
	if _, err := dev.WriteAt(t.area[slots:], slots); err != nil {
		return err
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	return t.backup.LUKS.Restore(dev)
}

// readBack compares what is there now with the backup, whose key was proved.
func (t *restoring) readBack() error {
	c, h, err := t.openHeader(t.s, t.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.Close()
	same, err := t.sameAs(h, c.Header)
	if err == nil && !same {
		err = fault.Newf(fault.IOFailed, "%s does not read back as it was written", c.Header.Path())
	}
	return err
}

// sameAs reports whether the header that is there is the backup's.
func (t *restoring) sameAs(h *header.Header, dev header.Device) (bool, error) {
	area, err := header.AreaOf(h, dev)
	if err != nil {
		return false, err
	}
	slots, _ := h.LUKS.KeyslotsArea()
	return h.Copies.Intact() && len(area) == len(t.area) && bytes.Equal(area[slots:], t.area[slots:]) &&
		h.LUKS.UUID == t.backup.LUKS.UUID && reflect.DeepEqual(h.LUKS.Metadata, t.backup.LUKS.Metadata), nil
}

// forgetErase records the restored volume, and removes the erase record beside a detached
// header, which would permit overwriting the volume.
func (t *restoring) forgetErase() error {
	if t.o.DryRun {
		return nil
	}
	t.remember(t.s, t.backup.LUKS.UUID)
	if !t.s.Detached() {
		return nil
	}
	return t.sys.Files.Remove(t.s.Header + header.EraseRecordSuffix)
}
