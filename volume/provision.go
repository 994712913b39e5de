// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/luks2"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// ProvisionOptions change how a volume is provisioned.
type ProvisionOptions struct {
	// Wipe permits overwriting what is on the device, unless that is a volume of ours:
	// the caller has asked a person for the volume's name. Only erase destroys our
	// volumes.
	Wipe bool
	// RequireClosed refuses every volume whose key was not, or would not be, made on a
	// chip that is known to be closed, including ready ones.
	RequireClosed bool
	// NoMount leaves the volume locked.
	NoMount bool
	// Recipients are age recipients (age1…) that a copy of the key is sealed to. By
	// default there is none. Only a rotation, which makes another key, adds one later.
	Recipients []string
	// Passphrase, if not nil, asks for another copy, which opens with a passphrase, and
	// receives that passphrase before anything is written. Its error ends the run.
	Passphrase func(words string) error
	// DryRun examines everything and changes nothing.
	DryRun bool
	// Progress is called after each step.
	Progress func(Step)
}

// Provision makes the key, the header and the filesystem of a volume, and mounts it. Run
// again, it finishes what was interrupted or finds nothing to do. It never makes a second
// key for a ready volume and never formats one.
func (m *Manager) Provision(ctx context.Context, s spec.Volume, o ProvisionOptions) (Result, error) {
	j := m.begin(s, o.Progress)
	err := m.provision(ctx, s, o, j)
	return j.result, Failed(ctx, "provision", s, err)
}

func (m *Manager) provision(ctx context.Context, s spec.Volume, o ProvisionOptions, j *runLog) error {
	recovery := len(o.Recipients) > 0 || o.Passphrase != nil
	instead := openSource(&s) && !recovery
	s, why, err := m.chosen(ctx, s, recovery, j)
	if err != nil {
		return err
	}
	src, err := m.sources.Of(s)
	if err != nil {
		return err
	}
	if s.Detached() && !s.Filesystem.ProvesKey() {
		return fault.Newf(fault.ConfigInvalid,
			"a volume with filesystem: %s cannot have a detached header: nothing would identify its device", s.Filesystem)
	}
	if err := (copies{o.Recipients, o.Passphrase}).permitted(s); err != nil {
		return err
	}
	p := &provisioning{Manager: m, s: s, o: o, j: j, src: src, path: s.Device, why: why, instead: instead && why != ""}
	if planned, err := p.makeImage(ctx); planned || err != nil {
		return err
	}
	if s.Ephemeral() {
		return p.mark(ctx)
	}
	return m.onDevice(ctx, s, func(path string) error {
		j.result.Device, p.path = path, path
		found, err := p.survey(ctx)
		if err != nil {
			return err
		}
		if found.header != nil && found.header.Token.Phase == header.PhaseReady {
			return p.finishReady(ctx, found.header)
		}
		return p.makeVolume(ctx, found)
	})
}

// finishReady does what is left to do for a ready volume.
func (p *provisioning) finishReady(ctx context.Context, h *header.Header) error {
	if err := h.RequireProvedKey(); err != nil {
		return err
	}
	h = h.KeySide()
	p.j.result.Already = true
	p.j.identify(h, p.path)
	if err := h.NotRolledBack(); err != nil {
		return err
	}
	if err := p.requireClosed(h.Token.State); err != nil {
		return err
	}
	if err := p.requireRecovery(h); err != nil {
		return err
	}
	if err := p.requireUnclaimed(ctx, h); err != nil {
		return err
	}
	if p.o.DryRun {
		if h.Unbound() {
			p.j.would("add a check of the key to " + p.s.Header)
			return nil
		}
		p.j.would("do nothing: the volume is provisioned already")
		return nil
	}
	if err := p.opensHere(ctx, h); err != nil {
		return err
	}
	p.repairCopy(ctx, p.s, h, p.j)
	if h.Unbound() {
		if err := p.bind(ctx, p.s, p.path, p.j); err != nil {
			p.j.warn("no check of the key could be added to the detached header: " + err.Error())
		}
	}
	return p.finish(ctx)
}

// opensHere proves the key of a ready, locked volume as verify does: the device may be
// another board's, or a copy of it.
func (p *provisioning) opensHere(ctx context.Context, h *header.Header) error {
	if _, err := p.sys.Mapper.Info(p.s.Mapping); !errors.Is(err, dmcrypt.ErrNotFound) {
		return err
	}
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	key, err := p.openProved(ctx, p.s, h, c, nil)
	if err == nil {
		err = p.verifyFilesystem(ctx, p.s, h, c, key, p.begin(p.s, nil))
		key.Wipe()
	}
	return errors.Join(err, c.Close())
}

// makeVolume makes the volume, or continues an interrupted run.
func (p *provisioning) makeVolume(ctx context.Context, found survey) error {
	if err := p.permitted(ctx, found); err != nil {
		return err
	}
	if p.o.DryRun {
		p.announceSteps(found)
		return nil
	}
	if err := p.run(ctx, found); err != nil {
		return err
	}
	return p.finish(ctx)
}

// provisioning is one run over one device.
type provisioning struct {
	*Manager
	s   spec.Volume
	o   ProvisionOptions
	j   *runLog
	src source.Source
	// why is the reason for the source if that is auto; instead reports whether it could
	// be another.
	why     string
	instead bool
	path    string
	// red is the plain key of a volume with a recovery copy, until the copy is proved.
	red *secret.Buffer
	// uuid is the UUID of the header that this run works on.
	uuid string
	// proved reports whether the check proves the key that an interrupted run stored.
	proved bool
	// replaces reports whether the device holds what the interrupted run wrote under a
	// detached header.
	replaces bool
	// wipeAgain reports that provisioning continues with an earlier detached header on a
	// device that holds something else, which may be overwritten.
	wipeAgain bool
}

// survey is what was found on the device.
type survey struct {
	// header is nil unless there is one of ours.
	header *header.Header
	layout header.Layout
}

// survey examines the device without changing it.
func (p *provisioning) survey(ctx context.Context) (found survey, err error) {
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Direct: true})
	if err == nil {
		found.header, err = header.Read(c)
		err = errors.Join(err, c.Close())
	}
	switch {
	case err == nil && found.header.Token.Phase == header.PhaseErasing:
		// Only erase destroys keys, so only erase finishes it.
		return found, fault.Newf(fault.EraseStarted, "the volume was being erased, and that was interrupted")
	case err == nil:
		return found, found.header.MatchesRotating(p.s)
	case fault.Is(err, fault.NotProvisioned), fault.Is(err, fault.ProvisioningStarted):
		return p.surveyUnknown(found, nil)
	case fault.Is(err, fault.PlaintextFound), fault.Is(err, fault.ForeignHeader):
		return p.surveyUnknown(found, err)
	}
	return found, err
}

// surveyUnknown examines a device without a header of ours. what is the error that names
// what is there instead, if that is recognisable.
func (p *provisioning) surveyUnknown(found survey, what error) (survey, error) {
	if what != nil && !p.o.Wipe {
		return found, what
	}
	return found, p.exclusively(func(dev header.Device) error {
		if err := p.sized(dev); err != nil {
			return err
		}
		check := p.requireEmpty
		if p.o.Wipe {
			check = p.notOurs
		}
		if err := check(dev); err != nil {
			return err
		}
		var err error
		found.layout, err = header.PlanLayout(p.s, facts(dev))
		return err
	})
}

// requireEmpty enforces that the device is empty, was erased, or holds only the torn first
// header of an interrupted run, with whose key nothing was encrypted. A device without
// known signatures is not necessarily empty: a plain dm-crypt volume shows none.
func (p *provisioning) requireEmpty(dev header.Device) error {
	if erased, err := p.erasedBefore(p.s, dev); erased || err != nil {
		return err
	}
	skip := int64(0)
	if !p.s.Detached() {
		area, unfinished, err := luks2.Unfinished(dev, dev.Size())
		if err != nil {
			return err
		}
		if unfinished {
			skip = area
		}
	}
	e, err := blockdev.SampleFrom(dev, skip, dev.Size())
	if err != nil {
		return fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	if !e.Empty {
		return fault.Newf(fault.NotEmpty, "%s is not empty: data at byte %d%s%s", dev.Path(), e.Offset, p.noise(), p.madeHere())
	}
	return nil
}

// noise returns what an error adds if a device is not empty because it is the mapping of
// another volume, where zeros on the device below decrypt to noise.
func (p *provisioning) noise() string {
	name, ok := strings.CutPrefix(p.s.Device, "/dev/mapper/")
	if !ok {
		return ""
	}
	if info, err := p.sys.Mapper.Info(name); err != nil || !strings.HasPrefix(info.UUID, dmcrypt.UUIDPrefixVolume) {
		return ""
	}
	return "; it is in an encrypted volume, where what was never written reads as noise: if nothing is in it, fill it with zeros once (blkdiscard -z " + p.s.Device + "), or give --wipe"
}

// notOurs enforces that no volume of ours has its header on the device.
func (p *provisioning) notOurs(dev header.Device) error {
	h, err := header.Read(&header.Storage{Data: dev, Header: dev, Erased: func() (header.EraseRecord, bool, error) { return header.ReadEraseRecord(dev) }})
	switch {
	case err == nil:
		return fault.Newf(fault.HeaderMismatch, "%s holds the volume %q with its header on the device, uuid %q; only erase destroys volumes",
			dev.Path(), h.LUKS.Label, h.LUKS.UUID)
	case fault.Is(err, fault.NotProvisioned), fault.Is(err, fault.ProvisioningStarted),
		fault.Is(err, fault.PlaintextFound), fault.Is(err, fault.ForeignHeader):
		return nil
	}
	return err
}

// madeHere returns what an error adds about the volume that the data may belong to.
func (p *provisioning) madeHere() string {
	r, ok := p.recall(p.s)
	if !ok {
		return ""
	}
	return "; " + r.text(p.s)
}

func facts(dev header.Device) header.DeviceFacts {
	return header.DeviceFacts{Path: dev.Path(), Size: dev.Size(), EraseSize: dev.PreferredEraseSize()}
}

// exclusively opens the device for writing, shared with no one, and calls use.
func (p *provisioning) exclusively(use func(header.Device) error) (err error) {
	dev, err := p.sys.Devices.Open(p.path, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	return use(dev)
}

// permitted checks what must hold before a key is made.
func (p *provisioning) permitted(ctx context.Context, found survey) error {
	if p.s.Mount.Path != "" && !p.o.NoMount {
		target, err := p.sys.Mounts.Look(p.s.Mount.Path)
		if err = errors.Join(err, target.Usable()); err != nil {
			return err
		}
	}
	if err := p.nameFree(found.header); err != nil {
		return err
	}
	if found.header != nil {
		if err := p.resumable(ctx, found.header); err != nil {
			return err
		}
		if !p.renews(found.header) {
			return p.stateAllowed(found.header.Token.State)
		}
	}
	state := p.securityState()
	if err := p.stateAllowed(state); err != nil {
		return err
	}
	p.warnFleeting()
	if err := p.tryChosen(ctx, p.s, p.instead); err != nil {
		return err
	}
	// If no fuse can be read, a key may show it: the kernel says that an open chip made
	// it.
	if now := p.securityState(); now != state {
		return p.stateAllowed(now)
	}
	return nil
}

// nameFree refuses a run that could not unlock the volume at the end, because its
// mapping's name is taken.
func (p *provisioning) nameFree(h *header.Header) error {
	info, err := p.sys.Mapper.Info(p.s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if h != nil && info.UUID == dmcrypt.VolumeUUID(h.LUKS.UUID, p.s.Mapping) {
		return nil // of an interrupted run
	}
	return fault.Newf(fault.MappingMismatch, "mapping %s exists and is not this volume: its uuid is %q", p.s.Mapping, info.UUID)
}

// securityState returns the chip's state, for sources that depend on it.
func (p *provisioning) securityState() caam.SecurityState {
	if !spec.Sealed(p.s.Source) {
		return caam.Unknown
	}
	return p.sys.SecurityState()
}

// requireClosed applies [ProvisionOptions.RequireClosed] to a key's state.
func (p *provisioning) requireClosed(state caam.SecurityState) error {
	switch {
	case !p.o.RequireClosed || spec.Sealed(p.s.Source) && state == caam.Closed:
		return nil
	case !spec.Sealed(p.s.Source):
		return fault.Newf(fault.InsecureRefused, "a closed chip is required, and source %s does not use the chip", p.s.Source)
	case state == caam.Open:
		return fault.Newf(fault.OpenStateRefused, "a closed chip is required, and the key was or would be made on an open one")
	}
	return fault.Newf(fault.SecurityStateUnknown, "a closed chip is required, and whether this one is closed cannot be read")
}

func (p *provisioning) stateAllowed(state caam.SecurityState) error {
	if err := p.requireClosed(state); err != nil {
		return err
	}
	if !spec.Sealed(p.s.Source) || p.s.Ephemeral() {
		return nil
	}
	switch state {
	case caam.Open:
		if !p.s.AllowOpenState {
			return fault.Newf(fault.OpenStateRefused, "this chip is open: its key is sealed with the test master key that all open chips share, and is lost when the chip is closed")
		}
		p.j.warn("this chip is open: every open chip can open this volume, and none can once it is closed")
	case caam.Unknown:
		p.j.warn("whether this chip is open or closed cannot be read; recorded as unknown")
	}
	return nil
}

func (p *provisioning) announceSteps(found survey) {
	if p.s.Ephemeral() {
		p.announceMark()
		return
	}
	if found.header == nil {
		if p.o.Wipe {
			p.j.would("overwrite what is on " + p.path)
		}
		if p.why != "" {
			p.j.would("choose " + p.why)
		}
		p.j.would(fmt.Sprintf("create a key of %d bytes, source %s", p.s.KeySize, p.s.Source))
		if p.copies().any() {
			p.j.would("seal a recovery copy of it to " + p.copies().String())
		}
		p.j.would(fmt.Sprintf("write a header, data of %d bytes from byte %d of %s", found.layout.DataSize, found.layout.DataOffset, p.path))
	} else {
		if p.wipeAgain {
			p.j.would("overwrite what is on " + p.path)
		}
		if p.renews(found.header) {
			p.j.would(fmt.Sprintf("create another key of %d bytes, source %s, instead of the stored one", p.s.KeySize, p.s.Source))
		}
		p.j.would("continue the provisioning that was interrupted")
	}
	p.j.would("prove the stored key")
	if p.s.Filesystem.Made() {
		p.j.would("make its filesystem, " + p.s.Filesystem.Type)
	}
	p.j.would("mark the volume ready")
	if !p.o.NoMount {
		p.j.would("unlock and mount it")
	}
}

// run does what is missing up to phase ready.
func (p *provisioning) run(ctx context.Context, found survey) error {
	h := found.header
	var created source.Key
	var err error
	defer p.forgetRed()
	if h != nil {
		if err := p.claimAgain(ctx, h); err != nil {
			return err
		}
	}
	if h != nil && p.s.Detached() {
		// The run that wrote it may have been killed before it was durable.
		if err := p.sys.Files.Settle(p.s.Header); err != nil {
			return err
		}
	}
	switch {
	case h == nil:
		h, created, err = p.createHeader(ctx, found)
	case p.wipeAgain:
		err = p.exclusively(func(dev header.Device) error { return p.overwrite(ctx, dev) })
	}
	if err != nil {
		return err
	}
	p.uuid = h.LUKS.UUID
	if found.header != nil && p.renews(h) {
		h, created, err = p.renewKey(ctx)
	}
	if err != nil {
		return err
	}
	if created != nil {
		defer created.Wipe()
	}
	p.j.identify(h, p.path)
	if err := ctx.Err(); err != nil {
		return err
	}
	key, err := p.proveStored(ctx, created)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if err := p.proveRecovery(ctx, key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return p.complete(ctx, key)
}

// createHeader makes the key and writes the first header. After it the blob is on
// storage, and nothing has been encrypted with its key.
func (p *provisioning) createHeader(ctx context.Context, found survey) (*header.Header, source.Key, error) {
	uuid, err := p.newUUID()
	if err != nil {
		return nil, nil, err
	}
	if p.s.UUID != "" {
		uuid = p.s.UUID
	}
	state := p.securityState()
	var h *header.Header
	var key source.Key
	if p.why != "" {
		p.j.did("chosen: " + p.why)
	}
	err = p.exclusively(func(dev header.Device) error {
		if err := p.requireVacant(dev); err != nil {
			return err
		}
		request := source.Request{UUID: uuid, Generation: 1, Wrap: caam.Wrap(p.s.KeyWrap()), KeySize: p.s.KeySize}
		var blob []byte
		var copied header.Recovery
		var err error
		if key, blob, copied, p.red, err = p.newKey(ctx, p.src, request, p.copies()); err != nil {
			return err
		}
		p.j.did("key created")
		token := header.Token{
			Source: p.s.Source, Phase: header.PhaseProvisioning, Generation: 1, Blob: blob, Wrap: request.Wrap, KeySize: p.s.KeySize,
			State: state, Created: p.sys.Now(), Recovery: copied,
		}
		if h, err = header.New(p.s, uuid, found.layout, token); err != nil {
			return err
		}
		return p.replaceContent(ctx, dev, h)
	})
	if err != nil {
		if key != nil {
			key.Wipe()
		}
		return nil, nil, err
	}
	p.j.did("header written")
	return h, key, nil
}

// replaceContent writes the first header and, with --wipe, overwrites what is there. The
// file of a detached header comes first: there may be no room for it, and once it exists
// an interrupted run is known to have begun.
func (p *provisioning) replaceContent(ctx context.Context, dev header.Device, h *header.Header) error {
	steps := []func() error{
		func() error { return p.overwrite(ctx, dev) },
		func() error { return p.writeFirst(dev, h) },
	}
	switch {
	case !p.o.Wipe:
		steps = steps[1:]
	case p.s.Detached():
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// writeFirst writes the first header: to the device, or to a new file, which appears
// whole or not at all.
func (p *provisioning) writeFirst(dev header.Device, h *header.Header) error {
	if !p.s.Detached() {
		if err := h.LUKS.Format(dev); err != nil {
			return fmt.Errorf("write the header to %s: %w", p.path, err)
		}
		return nil
	}
	image, err := h.LUKS.Image()
	if err != nil {
		return err
	}
	return p.sys.Files.Create(p.s.Header, image, 0o600)
}
