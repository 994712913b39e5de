// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
)

// BackupHeader writes a volume's whole header area, check area included, to a
// new file, readable to root only. The file opens the volume on this chip for
// ever, also after an erase: the caller says so.
func (m *Manager) BackupHeader(ctx context.Context, s Spec, file string) (Result, error) {
	j := m.begin(s, nil)
	err := m.onHeader(ctx, s, blockdev.Flags{Direct: true}, j, func(c *container, h *header) error {
		return m.backupHeader(s, c, h, file, j)
	})
	return j.result, failed(ctx, "header backup", s, err)
}

func (m *Manager) backupHeader(s Spec, c *container, h *header, file string, j *journey) error {
	if err := h.sameVolume(s, c.header.Path()); err != nil {
		return err
	}
	if err := h.keepable(); err != nil {
		return err
	}
	if !h.copies.Intact() {
		j.warn("one copy of the header is damaged; the backup holds the good one twice")
	}
	area, err := headerArea(h, c.header)
	if err != nil {
		return err
	}
	if err := m.sys.Files.Create(file, area, 0o600); err != nil {
		return err
	}
	back, err := m.sys.Files.Read(file, atomicfile.ReadOptions{MaxSize: maxHeaderArea})
	if err != nil || !bytes.Equal(back, area) {
		return fault.New(fault.IOFailed, file+" does not read back as it was written", err)
	}
	j.did("header area written to " + file)
	return nil
}

// keepable refuses headers that a copy of would be worth nothing.
func (h *header) keepable() error {
	if h.underRotation() {
		return refuse(fault.Busy, "a rotation is under way: a copy of this header would be wrong as soon as it goes on")
	}
	switch h.token.Phase {
	case PhaseReady:
		return nil
	case PhaseErasing:
		return refuse(fault.EraseStarted, "the volume was being erased, and that was interrupted")
	}
	return refuse(fault.ProvisioningStarted, "provisioning was interrupted; there is no data in the volume yet")
}

// underRotation tells whether the header names two keys.
func (h *header) underRotation() bool { return len(h.luks.Metadata.Tokens) > 1 }

// RestoreOptions change how a header is restored.
type RestoreOptions struct {
	// Force permits an older generation than the one on the device, and to
	// write over a filesystem or a foreign header that lies in its place.
	Force bool
	// Confirm is asked, with a sentence, before something that is there is
	// overwritten; its error is the result. nil refuses.
	Confirm func(what string) error
	DryRun  bool
	// Progress is told of each step when it is done.
	Progress func(Step)
}

// RestoreHeader brings back a header from a file that BackupHeader made. The
// blob in it must open on this chip before anything is written, and the key is
// proved afterwards; if it is not the volume's, what was there is put back.
func (m *Manager) RestoreHeader(ctx context.Context, s Spec, file string, o RestoreOptions) (Result, error) {
	j := m.begin(s, o.Progress)
	// Before the device is waited for: a file that is not there does not come.
	area, err := m.sys.Files.Read(file, atomicfile.ReadOptions{MaxSize: maxHeaderArea, FollowLinks: true})
	if errors.Is(err, fs.ErrNotExist) {
		err = fault.New(fault.Usage, "the backup", err)
	}
	if err == nil {
		err = m.onDevice(ctx, s, func(path string) error {
			t := &restoring{Manager: m, s: s, o: o, j: j, path: path}
			return t.restore(ctx, file, area)
		})
	}
	return j.result, failed(ctx, "header restore", s, err)
}

// restoring is one run over one volume.
type restoring struct {
	*Manager
	s    Spec
	o    RestoreOptions
	j    *journey
	path string

	backup *header
	area   []byte // the backup's bytes
	// before is what was there, to be put back; nil if it is not worth it.
	before []byte
	// older: the backup has an older key than the header that is there.
	older bool
	// what says what is overwritten; empty if nothing is lost.
	what string
}

func (t *restoring) restore(ctx context.Context, file string, area []byte) error {
	if err := t.judgeBackup(file, area); err != nil {
		return err
	}
	t.j.of(t.backup, t.path)
	if err := t.surveyDevice(); err != nil {
		return err
	}
	if t.j.result.Already {
		return nil
	}
	key, err := t.openKey(ctx, t.s, t.backup)
	if err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	key.wipe()
	t.j.did("the blob in the backup opens")
	if t.what != "" {
		if t.o.Confirm == nil {
			return refuse(fault.ConfirmationNeeds, "%s: not confirmed", t.what)
		}
		if err := t.o.Confirm(t.what); err != nil {
			return err
		}
	}
	if t.o.DryRun {
		t.j.would("write the header of generation " + fmt.Sprint(t.backup.token.Generation) + " to " + t.place())
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

// judgeBackup judges what was read from the file against the device and the
// configuration.
func (t *restoring) judgeBackup(file string, area []byte) error {
	dev, err := t.sys.Devices.Open(t.path, blockdev.Flags{})
	if err != nil {
		return err
	}
	size := dev.Size()
	if err := dev.Close(); err != nil {
		return err
	}
	var lh *luks2.Header
	var copies luks2.Copies
	if t.s.Detached() {
		lh, copies, err = luks2.ReadDetached(headerImage{area, int64(len(area))}, int64(len(area)), size)
	} else {
		lh, copies, err = luks2.Read(headerImage{area, size}, size)
	}
	if errors.Is(err, luks2.ErrNotLUKS) {
		return fault.New(fault.HeaderInvalid, file+" is no header backup", err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if t.backup, err = understand(lh, copies, file); err != nil {
		return err
	}
	if int64(len(area)) != lh.Area() {
		return refuse(fault.HeaderInvalid, "%s has %d bytes, its header area %d: it was cut, or is no header backup", file, len(area), lh.Area())
	}
	if err := t.backup.sameVolume(t.s, file); err != nil {
		return err
	}
	if err := t.backup.keepable(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if _, err := luks2.Mend(headerImage{area, int64(len(area))}); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	t.area = area
	return t.backup.matches(t.s)
}

// surveyDevice looks at what would be overwritten.
func (t *restoring) surveyDevice() error {
	unlocked := false
	if _, err := t.sys.Mapper.Info(t.s.Mapping); err == nil {
		unlocked = true
	}
	c, err := t.openContainer(t.s, t.path, blockdev.Flags{Direct: true})
	if err == nil {
		defer c.close()
		var h *header
		if h, err = readHeader(c); err == nil {
			return t.surveyHeader(h, c, unlocked)
		}
	}
	switch fault.CodeOf(err) {
	case fault.NotProvisioned, fault.ProvisioningStarted, fault.EraseStarted:
	case fault.HeaderDamaged, fault.HeaderInvalid:
		if err := t.surveyTraces(c, err); err != nil {
			return err
		}
	case fault.ForeignHeader, fault.PlaintextFound:
		if !t.o.Force {
			return err
		}
		t.what = "what lies in the header's place will be lost (" + err.Error() + "): restore"
	default:
		return err
	}
	if unlocked {
		return t.busy()
	}
	return nil
}

func (t *restoring) busy() error {
	return refuse(fault.Busy, "/dev/mapper/%s is open: the header of a volume in use is not replaced", t.s.Mapping)
}

// surveyHeader compares the backup with a header that is there.
func (t *restoring) surveyHeader(h *header, c *container, unlocked bool) error {
	if h.luks.UUID != t.backup.luks.UUID || h.luks.Label != t.backup.luks.Label {
		return refuse(fault.HeaderMismatch, "%s holds another volume: %q with uuid %q, the backup is of %q with uuid %q",
			c.header.Path(), h.luks.Label, h.luks.UUID, t.backup.luks.Label, t.backup.luks.UUID)
	}
	area, err := headerArea(h, c.header)
	if err != nil {
		return err
	}
	slots, _ := h.luks.KeyslotsArea()
	if h.copies.Intact() && len(area) == len(t.area) && bytes.Equal(area[slots:], t.area[slots:]) &&
		reflect.DeepEqual(h.luks.Metadata, t.backup.luks.Metadata) {
		t.j.result.Already = true
		return nil
	}
	if unlocked {
		return t.busy()
	}
	if h.underRotation() {
		return refuse(fault.Busy, "%s is being rotated: its data is under two keys, and only its own header tells where", c.header.Path())
	}
	if h.token.Generation > t.backup.token.Generation && !t.o.Force {
		return refuse(fault.RollbackRefused, "the backup has the key of generation %d, the header on %s that of generation %d",
			t.backup.token.Generation, c.header.Path(), h.token.Generation)
	}
	t.before, t.older = area, h.token.Generation > t.backup.token.Generation
	t.what = fmt.Sprintf("the header on %s (generation %d, %s) will be replaced by that of the backup (generation %d): restore",
		c.header.Path(), h.token.Generation, h.token.Phase, t.backup.token.Generation)
	return nil
}

// surveyTraces refuses to write over the damaged header of another volume.
func (t *restoring) surveyTraces(c *container, err error) error {
	traces, readErr := luks2.Traces(c.header, c.header.Size())
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	for _, trace := range traces {
		if trace.UUID != t.backup.luks.UUID && !t.o.Force {
			return fault.New(fault.HeaderMismatch, fmt.Sprintf("%s holds the damaged header of another volume: %q with uuid %q",
				c.header.Path(), trace.Label, trace.UUID), err)
		}
	}
	return nil
}

func (t *restoring) run(ctx context.Context) error {
	if err := t.put(t.area, true); err != nil {
		return err
	}
	t.j.did("header written")
	proof := t.prove(ctx)
	if proof == nil {
		t.j.did("key proved")
		return nil
	}
	if t.before == nil {
		return fmt.Errorf("the header was restored, but its key does not open the data: %w", proof)
	}
	if err := t.put(t.before, false); err != nil {
		return errors.Join(proof, err)
	}
	return fmt.Errorf("the header that was there was put back: %w", proof)
}

// put writes a whole header area. The keyslots area goes first: with it goes
// the record of an erase, which must not outlive the moment a header is there.
func (t *restoring) put(area []byte, restored bool) (err error) {
	dev, err := t.openPlace(int64(len(area)))
	if err != nil {
		return err
	}
	if dev == nil {
		return t.putFile(area)
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if t.s.Detached() {
		if err := t.sys.Files.Remove(t.s.Header + eraseRecordSuffix); err != nil {
			return err
		}
	}
	slots, _ := t.backup.luks.KeyslotsArea()
	if _, err := dev.WriteAt(area[slots:], slots); err != nil {
		return err
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	if restored {
		return t.backup.luks.Restore(dev)
	}
	for _, at := range []int64{slots / 2, 0} {
		if _, err := dev.WriteAt(area[at:at+slots/2], at); err != nil {
			return err
		}
		if err := dev.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// openPlace opens what holds the header; nil where that is a file which is not
// there, or too short to be of use.
func (t *restoring) openPlace(size int64) (Device, error) {
	if !t.s.Detached() {
		return t.sys.Devices.Open(t.path, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
	}
	dev, err := t.sys.Devices.Open(t.s.Header, blockdev.Flags{Write: true, Direct: true})
	if err != nil {
		return nil, nil // Create tells what is wrong with the place
	}
	if dev.Size() != size {
		return nil, dev.Close()
	}
	return dev, nil
}

func (t *restoring) putFile(area []byte) error {
	if err := t.sys.Files.Remove(t.s.Header); err != nil {
		return err
	}
	if err := t.sys.Files.Remove(t.s.Header + eraseRecordSuffix); err != nil {
		return err
	}
	return t.sys.Files.Create(t.s.Header, area, 0o600)
}

// prove opens the restored header as any later unlock will.
func (t *restoring) prove(ctx context.Context) error {
	c, h, err := t.openHeader(t.s, t.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.close()
	key, err := t.openKey(ctx, t.s, h)
	if err != nil {
		return err
	}
	defer key.wipe()
	if err := t.proveKey(ctx, t.s, h, c, key); err != nil || !t.older || h.token.Filesystem.Type == "" {
		return err
	}
	// The backup's check came with it, and proves its key for the header only:
	// whether the data is still under that key the filesystem tells.
	return t.verifyByFilesystem(ctx, t.s, h, c, key)
}
