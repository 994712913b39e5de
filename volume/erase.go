// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
)

// maxHeaderArea is the largest header area in bytes that the configuration
// allows, and so the largest that is believed.
const maxHeaderArea = 16 * mib

// EraseOptions change how a volume is erased.
type EraseOptions struct {
	// DryRun looks and changes nothing.
	DryRun bool
	// Progress is told of each step when it is done.
	Progress func(Step)
}

// EraseResult is what erase did, and what it cannot do.
type EraseResult struct {
	Result
	// Remains says in sentences for a person what of the volume still exists.
	Remains []string `json:"remains"`
}

// discarder is a device that can be told to forget.
type discarder interface {
	Discard(off, length int64, secure bool) error
}

// Erase destroys a volume's key: the blob and both copies of the header, the
// check area, and for the dev source the key's file. The caller has asked a
// person. It also erases what a damaged header of this volume still shows, and
// finishes an erase that was interrupted.
//
// Wherever it is cut off, the volume is either as it was, or marked so that
// nothing opens it and the next erase goes on:
//
//  1. the token gets phase "erasing", where the header can still be written
//  2. a record "begun" is written, which survives what follows
//  3. the header area is overwritten, discarded and overwritten again
//  4. it is read back, and the record says "done"
//
// The record, too, is what lets Provision take the device afterwards.
func (m *Manager) Erase(ctx context.Context, s Spec, o EraseOptions) (EraseResult, error) {
	r, err := m.erase(ctx, s, o)
	return r, failed(ctx, "erase", s, err)
}

func (m *Manager) erase(ctx context.Context, s Spec, o EraseOptions) (r EraseResult, err error) {
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
	e := &erasing{Manager: m, s: s, j: j, path: path}
	if err := e.survey(); err != nil {
		return r, err
	}
	j.result.UUID, j.result.Generation = e.record.UUID, e.generation
	if e.record.State == eraseDone {
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
	// Looked at again under the lock: what was seen before may have changed.
	j.result.Warnings = nil
	if err := e.survey(); err != nil {
		return r, err
	}
	if err := e.run(ctx); err != nil {
		return r, err
	}
	r.Remains = e.remains()
	return r, nil
}

// erasing is one run over one volume.
type erasing struct {
	*Manager
	s    Spec
	j    *journey
	path string

	// record is what is written, or was found; State is 0 as long as nothing was
	// begun.
	record eraseRecord
	// header is set where it can be read, with its generation.
	header     *header
	generation int
	// missing tells that the file of a detached header is gone.
	missing bool
	// recipients of a recovery copy.
	recipients []string
	// overwritten counts the runs that were overwritten, secure those of them
	// that the storage has securely discarded.
	overwritten, secure int
}

// survey finds out what is to be erased, and refuses what is not this volume.
func (e *erasing) survey() error {
	e.header, e.missing = nil, false
	data, err := e.sys.Devices.Open(e.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer data.Close()
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
	defer c.close()
	h, err := readHeader(c)
	if err == nil {
		e.header, e.generation, e.recipients = h, h.token.Generation, h.token.Recovery.Recipients
		e.record = eraseRecord{Area: max(h.luks.Area(), e.s.HeaderSize), UUID: h.luks.UUID, Label: h.luks.Label}
		return h.sameVolume(e.s, c.header.Path())
	}
	if recorded && (r.State == eraseBegun || fault.Is(err, fault.NotProvisioned)) {
		e.record = r
		return sameVolume(e.s, c.header.Path(), luks2.Trace{UUID: r.UUID, Label: r.Label})
	}
	return e.surveyDamaged(c, err)
}

// surveyDamaged recognises this volume by what its damaged header, or one that
// is too new to be understood, still shows. err is why it cannot be read.
func (e *erasing) surveyDamaged(c *container, err error) error {
	switch fault.CodeOf(err) {
	case fault.HeaderDamaged, fault.HeaderInvalid, fault.HeaderRequirement, fault.ProvisioningStarted:
	default:
		return err
	}
	traces, readErr := luks2.Traces(c.header, c.header.Size())
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	for _, t := range traces {
		if t.Subsystem == Subsystem && sameVolume(e.s, c.header.Path(), t) == nil {
			e.record = eraseRecord{Area: e.s.HeaderSize, UUID: t.UUID, Label: t.Label}
			if e.s.Detached() {
				e.record.Area = c.header.Size()
			}
			e.j.warn("the header is damaged; it is erased by what it still shows: " + oneCause(err))
			return nil
		}
	}
	return err
}

func oneCause(err error) string { return fmt.Sprintf("%v", err) }

func (e *erasing) announceSteps() {
	e.j.would("lock the volume")
	e.j.would("mark the header and write a record that the erase has begun")
	if e.s.Source == SourceDev {
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
	// From here on nothing stops it on request: half an erase helps nobody.
	if err := e.destroyKeyFiles(); err != nil {
		return err
	}
	if err := e.destroyHeader(); err != nil {
		return err
	}
	if err := e.prove(); err != nil {
		return err
	}
	return e.putRecord(eraseDone)
}

// beginErase writes the marks by which every reader knows what goes on.
func (e *erasing) beginErase() error {
	if e.header != nil && e.header.token.Phase != PhaseErasing {
		c, err := e.openContainer(e.s, e.path, blockdev.Flags{Write: true, Direct: true})
		if err != nil {
			return err
		}
		e.header.token.Phase = PhaseErasing
		err = e.header.write(c.header)
		if fault.Is(err, fault.ForeignHeader) {
			// Something else lies over the first copy; the record does.
			err = nil
		}
		if err = errors.Join(err, c.close()); err != nil {
			return fmt.Errorf("mark the header: %w", err)
		}
	}
	if err := e.putRecord(eraseBegun); err != nil {
		return err
	}
	e.j.did("marked as being erased")
	return nil
}

// putRecord writes the record with a new state, durably.
func (e *erasing) putRecord(state eraseState) error {
	e.record.State = state
	if e.record.When.IsZero() {
		e.record.When = e.sys.Now()
	}
	if !e.s.Detached() {
		return e.onDevice(func(dev Device) error { return putBlock(dev, e.record.block(), eraseRecordOffset) })
	}
	path := e.s.Header + eraseRecordSuffix
	if state == eraseBegun {
		err := e.onDevice(func(dev Device) (err error) {
			e.record.Data, err = dataSum(dev)
			return err
		})
		if err != nil {
			return err
		}
		// One of an earlier erase says nothing any more.
		if err := e.sys.Files.Remove(path); err != nil {
			return err
		}
		return e.sys.Files.Create(path, e.record.block(), 0o600)
	}
	file, err := e.sys.Devices.Open(path, blockdev.Flags{Write: true, Direct: true})
	if err != nil {
		return err
	}
	return errors.Join(putBlock(file, e.record.block(), 0), file.Close())
}

func putBlock(dev Device, block []byte, at int64) error {
	if _, err := dev.WriteAt(block, at); err != nil {
		return fmt.Errorf("write the record of the erase: %w", err)
	}
	return dev.Flush()
}

// onDevice opens the volume's device for ourselves alone; for writing only
// where the header lies on it.
func (e *erasing) onDevice(use func(Device) error) error {
	dev, err := e.sys.Devices.Open(e.path, blockdev.Flags{Write: !e.s.Detached(), Exclusive: true, Direct: true})
	if err != nil {
		return err
	}
	return errors.Join(use(dev), dev.Close())
}

// destroyKeyFiles overwrites and removes the key files of a dev volume: all that
// there are, since the header may not tell its generation any more.
func (e *erasing) destroyKeyFiles() error {
	if e.s.Source != SourceDev || e.record.UUID == "" {
		return nil
	}
	paths, err := devSource{files: e.sys.Files, dir: e.s.StateDir}.paths(e.record.UUID)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := e.destroyFile(path); err != nil {
			return fmt.Errorf("key of source dev: %w", err)
		}
	}
	e.j.did("key file destroyed")
	return nil
}

// destroyFile overwrites a file and removes it. A file that is not there is no
// error: an interrupted run may have got that far.
func (e *erasing) destroyFile(path string) error {
	f, err := e.sys.Devices.Open(path, blockdev.Flags{Write: true, Direct: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := errors.Join(e.overwrite(f, run{0, f.Size()}), f.Close()); err != nil {
		return err
	}
	return e.sys.Files.Remove(path)
}

// run is from and to in bytes.
type run struct{ from, to int64 }

// overwrite puts random bytes over a run, has the storage forget them, and then
// zeros, so that what is read afterwards is defined. Random first: storage that
// deduplicates or compresses may keep the old block under one of zeros.
func (e *erasing) overwrite(dev Device, r run) error {
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
			// It promises nothing, so that nothing is lost where it fails too.
			_ = d.Discard(r.from, r.to-r.from, false)
		}
	}
	clear(block)
	return putOver(dev, block, r.from)
}

func putOver(dev Device, block []byte, at int64) error {
	if _, err := dev.WriteAt(block, at); err != nil {
		return fault.New(fault.IOFailed, "overwrite "+dev.Path(), err)
	}
	return dev.Flush()
}

// area is the run of the header area on a device, without the record's block.
func (e *erasing) runs(size int64) []run {
	return []run{{0, eraseRecordOffset}, {eraseRecordOffset + blockAlign, min(e.record.Area, size)}}
}

func (e *erasing) destroyHeader() error {
	if e.s.Detached() {
		if err := e.destroyFile(e.s.Header); err != nil {
			return err
		}
		e.j.did("header file overwritten and removed")
		return nil
	}
	err := e.onDevice(func(dev Device) error {
		for _, r := range e.runs(dev.Size()) {
			if err := e.overwrite(dev, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	e.j.did("header area overwritten")
	return nil
}

// prove reads back what was overwritten: no copy of the header, no blob.
func (e *erasing) prove() error {
	if e.s.Detached() {
		dev, err := e.sys.Devices.Open(e.s.Header, blockdev.Flags{})
		if err == nil {
			return errors.Join(refuse(fault.IOFailed, "%s is still there", e.s.Header), dev.Close())
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	} else if err := e.onDevice(e.proveDevice); err != nil {
		return err
	}
	e.j.did("proved that nothing is left to open")
	return nil
}

func (e *erasing) proveDevice(dev Device) error {
	for _, r := range e.runs(dev.Size()) {
		block := make([]byte, r.to-r.from)
		if _, err := dev.ReadAt(block, r.from); err != nil {
			return fault.New(fault.IOFailed, "read back "+dev.Path(), err)
		}
		if !allZero(block) {
			return refuse(fault.IOFailed, "%s: the header area does not read as it was overwritten", dev.Path())
		}
	}
	if _, _, err := luks2.Read(dev, dev.Size()); !errors.Is(err, luks2.ErrNotLUKS) {
		return fault.New(fault.IOFailed, dev.Path()+": a header is still found", err)
	}
	return nil
}

// remains says honestly what erase does not reach.
func (e *erasing) remains() []string {
	list := []string{
		"the ciphertext on " + e.path + ", which nothing opens without the key",
		"copies of the key made before, wherever they are: header backups, and .bb files of caam-keygen; on this chip they still open the volume",
	}
	if len(e.recipients) > 0 {
		list = append(list, "header backups with the recovery copy: whoever has the identity of the recipient opens the volume with one, on any machine")
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
