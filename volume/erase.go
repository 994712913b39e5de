// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"imxcrypt/internal/blank"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// EraseOptions change how a volume is erased.
type EraseOptions struct {
	// DryRun looks and changes nothing.
	DryRun bool
	// Progress is called for each step when it is done.
	Progress func(Step)
}

// EraseResult is what an erase did, and what it cannot reach.
type EraseResult struct {
	Result
	// Remains lists, in sentences for a person, what of the volume still exists.
	Remains []string `json:"remains"`
}

// discarder is a device that can discard.
type discarder interface {
	Discard(off, length int64, secure bool) error
}

// Erase destroys a volume's key: the blob and both copies of the header, the check area,
// and for source dev the key file. The caller has asked a person. It also erases a
// damaged header that still shows that it is this volume's, and finishes an erase that
// was interrupted.
//
// Everything that may refuse does so before the first byte is written: the device is
// claimed exclusively, the file of a detached header is locked, the key files are opened,
// and all of them stay so until the end.
//
// Wherever it is interrupted, the volume is either as it was, or marked so that nothing
// opens it and the next erase continues:
//
//  1. the token gets phase "erasing", if the header can still be written
//  2. a record "begun" is written, which survives what follows. For a detached header it
//     is in a file of its own and comes first: there may be no room for it
//  3. the header area is overwritten, discarded and overwritten again
//  4. it is read back, and the record says "done"
//
// The record is also what lets Provision take the device afterwards.
func (m *Manager) Erase(ctx context.Context, s spec.Volume, o EraseOptions) (EraseResult, error) {
	r, err := m.erase(ctx, s, o)
	return r, Failed(ctx, "erase", s, err)
}

func (m *Manager) erase(ctx context.Context, s spec.Volume, o EraseOptions) (r EraseResult, err error) {
	j := m.begin(s, o.Progress)
	defer func() { r.Result = j.result }()
	if _, err := m.lock(ctx, s, LockOptions{DryRun: true}); err != nil {
		return r, err
	}
	path, err := m.find(ctx, s, true)
	if err != nil {
		return r, err
	}
	j.result.Device = path
	if s.Ephemeral() {
		r.Remains = []string{"what was written to the data area, under keys that are gone and were stored nowhere"}
		return r, m.unmark(ctx, s, path, o, j)
	}
	e := &erasing{Manager: m, s: s, j: j, path: path}
	if err := e.survey(true); err != nil {
		return r, err
	}
	j.result.UUID, j.result.Generation = e.record.UUID, e.generation
	if e.record.State == header.EraseDone {
		j.result.Already = true
		r.Remains = e.remains()
		return r, nil
	}
	if o.DryRun {
		e.announceSteps()
		r.Remains = e.remains()
		return r, nil
	}
	if _, err := m.lock(ctx, s, LockOptions{}); err != nil {
		return r, err
	}
	j.did("locked")
	release, err := m.sys.Locks.Acquire(ctx, s.Name)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, release()) }()
	// Survey again under the lock: what was seen before may have changed.
	j.result.Warnings = nil
	if err := e.survey(false); err != nil {
		return r, err
	}
	if err := e.claim(); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	if err := e.run(ctx); err != nil {
		return r, err
	}
	r.Remains = e.remains()
	return r, nil
}

// erasing is one run on one volume.
type erasing struct {
	*Manager
	s    spec.Volume
	j    *runLog
	path string

	// device and file are the volume's device and the file of its detached header, if
	// there is one, claimed until the end; keys are the key files of source dev, kept the
	// files with earlier headers that a restore or repair has replaced.
	device, file header.Device
	keys, kept   []header.Device
	// record is the one that was found or will be written; State is 0 until the erase has
	// begun.
	record header.EraseRecord
	// header and generation are set if the header can be read.
	header     *header.Header
	generation int
	// missing is set if the file of a detached header is gone.
	missing bool
	// recoverable is set if there is a recovery copy of the key.
	recoverable bool
	// overwritten counts the runs that were overwritten, secure those of them
	// that the storage has securely discarded.
	overwritten, secure int
}

// survey finds out what is to be erased, and refuses what is not this volume or is used
// by others. If live is true, the volume may still be unlocked.
func (e *erasing) survey(live bool) error {
	data, err := e.sys.Devices.Open(e.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer data.Close()
	if err := e.surveyVolume(data); err != nil || e.record.State == header.EraseDone {
		return err
	}
	left, err := e.kernel.UsedBeside(e.s, e.record.UUID, data, live)
	if err == nil && left && !live {
		err = fault.Newf(fault.Busy, "a private mapping of the volume is left on %s", e.path)
	}
	return err
}

func (e *erasing) surveyVolume(data header.Device) error {
	e.header, e.missing = nil, false
	r, recorded, err := e.eraseRecordOf(e.s, data)
	if err != nil {
		return err
	}
	c, err := e.openContainer(e.s, e.path, blockdev.Flags{Direct: true})
	if err != nil {
		if recorded && e.s.Detached() && (fault.Is(err, fault.NotProvisioned) || fault.Is(err, fault.EraseStarted)) {
			e.record, e.missing = r, true
			return nil
		}
		return err
	}
	defer c.Close()
	h, err := header.Read(c)
	if err == nil && (h.Encrypting() || h.Decrypting()) {
		return fault.Newf(fault.RotationUnderWay, "a part of the volume's data is in plain text, which no key protects: %s first", inPlaceEnd(h, e.s))
	}
	if err == nil {
		e.header, e.generation, e.recoverable = h, h.Token.Generation, h.Token.Recovery.Made()
		e.record = header.EraseRecord{Area: max(h.LUKS.Area(), e.s.HeaderSize), UUID: h.LUKS.UUID, Label: h.LUKS.Label}
		return h.SameVolume(e.s, c.Header.Path())
	}
	if recorded && (r.State == header.EraseBegun || fault.Is(err, fault.NotProvisioned)) {
		e.record = r
		return header.SameVolume(e.s, c.Header.Path(), luks2.Trace{UUID: r.UUID, Label: r.Label})
	}
	return e.surveyDamaged(c, err)
}

// surveyDamaged recognises this volume by what a header that is damaged, or too new to be
// understood, still shows. err says why it cannot be read.
func (e *erasing) surveyDamaged(c *header.Storage, err error) error {
	switch fault.CodeOf(err) {
	case fault.HeaderDamaged, fault.HeaderInvalid, fault.HeaderRequirement, fault.ProvisioningStarted:
	default:
		return err
	}
	traces, readErr := luks2.Traces(c.Header, c.Header.Size())
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	for _, t := range traces {
		if t.Subsystem == header.Subsystem && header.SameVolume(e.s, c.Header.Path(), t) == nil {
			e.record = header.EraseRecord{Area: e.s.HeaderSize, UUID: t.UUID, Label: t.Label}
			if e.s.Detached() {
				e.record.Area = c.Header.Size()
			}
			e.j.warn("the header is damaged; it is erased by what it still shows: " + err.Error())
			return nil
		}
	}
	return err
}

func (e *erasing) announceSteps() {
	e.j.would("lock the volume")
	e.j.would("mark the header and write a record that the erase has begun")
	if e.s.Source == spec.SourceDev {
		e.j.would("overwrite and remove the key's file")
	}
	if e.s.Detached() {
		e.j.would("overwrite and remove " + e.s.Header)
	} else {
		e.j.would(fmt.Sprintf("overwrite and discard the first %d bytes of %s", e.record.Area, e.path))
	}
}

func (e *erasing) run(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if e.record.State == 0 {
		if err := e.beginErase(); err != nil {
			return err
		}
	}
	// From here on it cannot be cancelled: half an erase helps no one.
	if err := e.destroyKeyFiles(); err != nil {
		return err
	}
	if err := e.destroyKept(); err != nil {
		return err
	}
	if err := e.destroyHeader(); err != nil {
		return err
	}
	if err := e.prove(); err != nil {
		return err
	}
	if err := e.putRecord(header.EraseDone); err != nil {
		return err
	}
	e.forget(e.s)
	return nil
}

// claim opens everything that will be written to; the device and the header file
// exclusively.
func (e *erasing) claim() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	if e.device, err = e.sys.Devices.Open(e.path, blockdev.Flags{Write: !e.s.Detached(), Exclusive: true, Direct: true}); err != nil {
		return err
	}
	if e.s.Detached() && !e.missing {
		if e.file, err = e.sys.Devices.Open(e.s.Header, blockdev.Flags{Write: true, Exclusive: true, Direct: true}); err != nil {
			return err
		}
	}
	if err := e.openKeyFiles(); err != nil {
		return err
	}
	return e.openKept()
}

// openKept opens the files with earlier headers that a restore or repair has kept.
func (e *erasing) openKept() error {
	paths, err := e.keptFiles(e.s, e.record.UUID, e.j)
	if err != nil {
		return fmt.Errorf("look for kept headers: %w", err)
	}
	if paths, err = e.ofThisVolume(paths); err == nil {
		e.kept, err = e.openAll(paths)
	}
	if err != nil {
		return fmt.Errorf("kept header: %w", err)
	}
	return nil
}

// openAll opens files to overwrite them. On an error it also returns those that were
// opened.
func (e *erasing) openAll(paths []string) (files []header.Device, err error) {
	for _, path := range paths {
		f, err := e.sys.Devices.Open(path, blockdev.Flags{Write: true, Direct: true})
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// openKeyFiles opens all key files of source dev, since the header may no longer show its
// generation, and a rotation from source dev may be under way.
func (e *erasing) openKeyFiles() error {
	if e.record.UUID == "" {
		return nil
	}
	paths, err := source.Dev{Files: e.sys.Files, Dir: e.s.StateDir}.Paths(e.record.UUID)
	if err != nil {
		return err
	}
	if e.keys, err = e.openAll(paths); err != nil {
		return fmt.Errorf("key of source dev: %w", err)
	}
	return nil
}

// close closes what claim opened.
func (e *erasing) close() error {
	var err error
	for _, devices := range [][]header.Device{e.keys, e.kept, {e.file, e.device}} {
		for _, d := range devices {
			if d != nil {
				err = errors.Join(err, d.Close())
			}
		}
	}
	e.keys, e.kept, e.file, e.device = nil, nil, nil, nil
	return err
}

// beginErase writes the marks that show every reader that an erase is under way.
func (e *erasing) beginErase() error {
	for _, mark := range e.marks() {
		if err := mark(); err != nil {
			return err
		}
	}
	e.j.did("marked as being erased")
	return nil
}

func (e *erasing) marks() []func() error {
	record := func() error { return e.putRecord(header.EraseBegun) }
	if e.s.Detached() {
		return []func() error{record, e.markHeader}
	}
	return []func() error{e.markHeader, record}
}

// markHeader writes the phase into the header.
func (e *erasing) markHeader() error {
	if e.header == nil || e.header.Token.Phase == header.PhaseErasing {
		return nil
	}
	on := e.device
	if e.s.Detached() {
		on = e.file
	}
	e.header.Token.Phase = header.PhaseErasing
	err := e.header.Write(on)
	var invalid *luks2.InvalidError
	if fault.Is(err, fault.HeaderCopyDamaged) || errors.As(err, &invalid) && invalid.Rule == luks2.RuleSequence {
		// Something else is in the place of the first copy, or the header's sequence
		// number cannot grow: the record is enough.
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark the header: %w", err)
	}
	return nil
}

// putRecord writes the record with a new state, durably.
func (e *erasing) putRecord(state header.EraseState) error {
	e.record.State = state
	if e.record.When.IsZero() {
		e.record.When = e.sys.Now()
	}
	if !e.s.Detached() {
		return putBlock(e.device, e.record.Block(), header.EraseRecordOffset)
	}
	path := e.s.Header + header.EraseRecordSuffix
	if state == header.EraseBegun {
		var err error
		if e.record.Data, err = header.DataSum(e.device); err != nil {
			return err
		}
		// A record of an earlier erase no longer matters.
		return e.sys.Files.Replace(path, e.record.Block(), 0o600)
	}
	// Write it in place, which needs no free space: a sector is never torn.
	file, err := e.sys.Devices.Open(path, blockdev.Flags{Write: true, Direct: true})
	if err != nil {
		return err
	}
	return errors.Join(putBlock(file, e.record.Block(), 0), file.Close())
}

func putBlock(dev header.Device, block []byte, at int64) error {
	if _, err := dev.WriteAt(block, at); err != nil {
		return fmt.Errorf("write the record of the erase: %w", err)
	}
	return dev.Flush()
}

// destroyKeyFiles overwrites and removes the key files of a dev volume.
func (e *erasing) destroyKeyFiles() error {
	for _, f := range e.keys {
		if err := e.destroyFile(f); err != nil {
			return fmt.Errorf("key of source dev: %w", err)
		}
	}
	if len(e.keys) > 0 {
		e.j.did("key file destroyed")
	}
	return nil
}

// destroyFile overwrites a file and removes it.
func (e *erasing) destroyFile(f header.Device) error {
	if err := e.overwrite(f, run{0, f.Size()}); err != nil {
		return err
	}
	return e.sys.Files.Remove(f.Path())
}

// run is a range in bytes.
type run struct{ from, to int64 }

// overwrite writes random bytes over a run, has the storage discard them, and then writes
// zeros, so that what is read afterwards is defined. Random bytes come first because
// storage that deduplicates or compresses may keep the old block under one of zeros.
func (e *erasing) overwrite(dev header.Device, r run) error {
	if r.to <= r.from {
		return nil
	}
	block := make([]byte, r.to-r.from)
	if _, err := io.ReadFull(e.sys.Rand, block); err != nil {
		return fmt.Errorf("random bytes to overwrite with: %w", err)
	}
	if err := putOver(dev, block, r.from); err != nil {
		return err
	}
	e.overwritten++
	if d, ok := dev.(discarder); ok {
		if d.Discard(r.from, r.to-r.from, true) == nil {
			e.secure++
		} else {
			// A plain discard promises nothing, so nothing is lost if it fails too.
			_ = d.Discard(r.from, r.to-r.from, false)
		}
	}
	clear(block)
	return putOver(dev, block, r.from)
}

func putOver(dev header.Device, block []byte, at int64) error {
	if _, err := dev.WriteAt(block, at); err != nil {
		return fault.New(fault.IOFailed, "overwrite "+dev.Path(), err)
	}
	return dev.Flush()
}

// runs returns the runs of the header area on a device of size bytes, without the
// record's block.
func (e *erasing) runs(size int64) []run {
	return []run{{0, header.EraseRecordOffset}, {header.EraseRecordOffset + header.BlockAlign, min(e.record.Area, size)}}
}

func (e *erasing) destroyHeader() error {
	if e.s.Detached() {
		// An interrupted run may have removed it already.
		if e.file != nil {
			if err := e.destroyFile(e.file); err != nil {
				return err
			}
		}
		e.j.did("header file overwritten and removed")
		return nil
	}
	for _, r := range e.runs(e.device.Size()) {
		if err := e.overwrite(e.device, r); err != nil {
			return err
		}
	}
	e.j.did("header area overwritten")
	return nil
}

// prove reads back what was overwritten: no copy of the header and no blob may be left.
func (e *erasing) prove() error {
	if e.s.Detached() {
		dev, err := e.sys.Devices.Open(e.s.Header, blockdev.Flags{})
		if err == nil {
			return errors.Join(fault.Newf(fault.IOFailed, "%s is still there", e.s.Header), dev.Close())
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	} else if err := e.proveDevice(e.device); err != nil {
		return err
	}
	e.j.did("proved that nothing is left to open")
	return nil
}

func (e *erasing) proveDevice(dev header.Device) error {
	for _, r := range e.runs(dev.Size()) {
		block := make([]byte, r.to-r.from)
		if _, err := dev.ReadAt(block, r.from); err != nil {
			return fault.New(fault.IOFailed, "read back "+dev.Path(), err)
		}
		if !blank.Zero(block) {
			return fault.Newf(fault.IOFailed, "%s: the header area does not read as it was overwritten", dev.Path())
		}
	}
	if _, _, err := luks2.Read(dev, dev.Size()); !errors.Is(err, luks2.ErrNotLUKS) {
		return fault.New(fault.IOFailed, dev.Path()+": a header is still found", err)
	}
	return nil
}

// remains lists what an erase does not reach.
func (e *erasing) remains() []string {
	list := []string{
		"the ciphertext on " + e.path + ", which nothing opens without the key",
		"copies of the key made before, wherever they are: header backups, and .bb files of caam-keygen; on this chip they still open the volume",
	}
	if e.recoverable {
		list = append(list, "header backups with the recovery copy: the identity of the recipient, or the passphrase, opens the volume with one, on any machine")
	}
	switch {
	case e.s.Detached():
		list = append(list, "blocks in which the filesystem of "+e.s.Header+" kept the header: a file cannot be overwritten in its place everywhere")
	case e.secure > 0 && e.secure == e.overwritten:
		list = append(list, "nothing of the header in flash pages, if the storage's secure discard does what it says")
	case e.secure > 0:
		list = append(list, "old flash pages: the storage's secure discard did not take all of the header, and it may keep the rest (of this and of earlier generations) where only taking the chip off reads it")
	default:
		list = append(list, "old flash pages: the storage has no secure discard, and may keep the overwritten header (of this and of earlier generations) where only taking the chip off reads it")
	}
	return list
}
