// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/luks2"
)

// ProvisionOptions change how a volume is provisioned.
type ProvisionOptions struct {
	// Wipe permits to overwrite what is on the device, provided it is no volume
	// of ours: the caller has asked a person for the volume's name. Volumes of
	// ours are destroyed by erase only.
	Wipe bool
	// RequireClosed refuses every volume whose key was not, or would not be, made
	// on a chip that is known to be closed; ready ones too.
	RequireClosed bool
	// NoMount leaves the volume locked.
	NoMount bool
	// Recipients are age recipients (age1…) that a copy of the key is sealed to;
	// by default there is none. It cannot be added later.
	Recipients []string
	// DryRun looks at everything and changes nothing.
	DryRun bool
	// Progress is told of each step when it is done.
	Progress func(Step)
}

// Provision makes the key, the header and the filesystem of a volume, and
// mounts it. Run again, it finishes what was interrupted, or finds that there is
// nothing to do; it never makes a second key and never formats a volume that is
// ready.
func (m *Manager) Provision(ctx context.Context, s Spec, o ProvisionOptions) (Result, error) {
	j := m.begin(s, o.Progress)
	err := m.provision(ctx, s, o, j)
	return j.result, failed(ctx, "provision", s, err)
}

func (m *Manager) provision(ctx context.Context, s Spec, o ProvisionOptions, j *journey) error {
	src, err := m.sourceOf(s)
	if err != nil {
		return err
	}
	if s.Detached() && s.Filesystem.Type == FilesystemNone {
		return refuse(fault.ConfigInvalid,
			"a volume without a filesystem cannot have a detached header: there would be nothing to prove its key by")
	}
	if err := checkRecipients(s, o.Recipients); err != nil {
		return err
	}
	return m.onDevice(ctx, s, func(path string) error {
		j.result.Device = path
		p := &provisioning{Manager: m, s: s, o: o, j: j, src: src, path: path}
		found, err := p.survey(ctx)
		if err != nil {
			return err
		}
		if found.header != nil && found.header.token.Phase == PhaseReady {
			return p.again(ctx, found.header)
		}
		return p.anew(ctx, found)
	})
}

// again is what is left to do for a volume that is ready.
func (p *provisioning) again(ctx context.Context, h *header) error {
	p.j.result.Already = true
	p.j.of(h, p.path)
	if err := p.requireClosed(h.token.State); err != nil {
		return err
	}
	if err := p.requireRecovery(h); err != nil {
		return err
	}
	if p.o.DryRun {
		p.j.would("do nothing: the volume is provisioned already")
		return nil
	}
	p.mend(p.s, h, p.j)
	return p.finish(ctx)
}

// anew makes the volume, or goes on where an earlier run was cut off.
func (p *provisioning) anew(ctx context.Context, found survey) error {
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
	s    Spec
	o    ProvisionOptions
	j    *journey
	src  source
	path string
	// red is the plain key of a volume with a recovery copy, until that copy is
	// proved.
	red *secret.Buffer
	// uuid is that of the header that this run works on.
	uuid string
	// wipeAgain: provisioning goes on with an earlier detached header on a device
	// that holds something else, which may be overwritten.
	wipeAgain bool
}

// survey is what was found on the device.
type survey struct {
	// header is set if there is one of ours.
	header *header
	layout Layout
}

// survey looks at the device without changing it.
func (p *provisioning) survey(ctx context.Context) (found survey, err error) {
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Direct: true})
	if err == nil {
		found.header, err = readHeader(c)
		err = errors.Join(err, c.close())
	}
	switch {
	case err == nil && found.header.token.Phase == PhaseErasing:
		// Only erase destroys keys, so only erase finishes it.
		return found, refuse(fault.EraseStarted, "the volume was being erased, and that was interrupted")
	case err == nil:
		return found, found.header.matchesRotating(p.s)
	case fault.Is(err, fault.NotProvisioned), fault.Is(err, fault.ProvisioningStarted):
		return p.surveyUnknown(found, nil)
	case fault.Is(err, fault.PlaintextFound), fault.Is(err, fault.ForeignHeader):
		return p.surveyUnknown(found, err)
	}
	return found, err
}

// surveyUnknown looks at a device without a header of ours. what is the error
// that tells what is there instead, if something recognisable is.
func (p *provisioning) surveyUnknown(found survey, what error) (survey, error) {
	if what != nil && !p.o.Wipe {
		return found, what
	}
	return found, p.exclusively(func(dev Device) error {
		check := p.empty
		if p.o.Wipe {
			check = p.notOurs
		}
		if err := check(dev); err != nil {
			return err
		}
		var err error
		found.layout, err = planLayout(p.s, facts(dev))
		return err
	})
}

// empty enforces that nothing lies on a device but, perhaps, the torn first
// header of an interrupted run: nothing was encrypted then. Free of known
// signatures is not empty: a plain dm-crypt volume shows none.
func (p *provisioning) empty(dev Device) error {
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
		return refuse(fault.NotEmpty, "%s is not empty: data at byte %d%s", dev.Path(), e.Offset, p.noise())
	}
	return nil
}

// noise tells of a device that is not empty because it is the mapping of another
// volume: zeros below it, decrypted, are noise.
func (p *provisioning) noise() string {
	name, ok := strings.CutPrefix(p.s.Device, "/dev/mapper/")
	if !ok {
		return ""
	}
	if info, err := p.sys.Mapper.Info(name); err != nil || !strings.HasPrefix(info.UUID, dmcrypt.UUIDPrefixVolume) {
		return ""
	}
	return "; it lies in an encrypted volume, where what was never written reads as noise: if nothing is in it, fill it with zeros once (blkdiscard -z " + p.s.Device + "), or give --wipe"
}

// notOurs enforces that no volume of ours has its header on the device.
func (p *provisioning) notOurs(dev Device) error {
	h, err := readHeader(&container{data: dev, header: dev})
	switch {
	case err == nil:
		return refuse(fault.HeaderMismatch, "%s holds the volume %q with its header on the device, uuid %q; only erase destroys volumes",
			dev.Path(), h.luks.Label, h.luks.UUID)
	case fault.Is(err, fault.NotProvisioned), fault.Is(err, fault.ProvisioningStarted),
		fault.Is(err, fault.PlaintextFound), fault.Is(err, fault.ForeignHeader):
		return nil
	}
	return err
}

func facts(dev Device) deviceFacts {
	return deviceFacts{path: dev.Path(), size: dev.Size(), eraseSize: dev.PreferredEraseSize()}
}

// exclusively opens the device for writing and for ourselves alone.
func (p *provisioning) exclusively(use func(Device) error) error {
	dev, err := p.sys.Devices.Open(p.path, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
	if err != nil {
		return err
	}
	return errors.Join(use(dev), dev.Close())
}

// permitted applies what must hold before a key is made.
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
		if err := p.untouched(ctx, found.header); err != nil {
			return err
		}
		if err := p.neverUsed(ctx, found.header); err != nil {
			return err
		}
		return p.stateAllowed(found.header.token.State)
	}
	return p.stateAllowed(p.securityState())
}

// nameFree refuses to begin what could not be unlocked at the end, since a
// mapping of the volume's name is somebody else's.
func (p *provisioning) nameFree(h *header) error {
	info, err := p.sys.Mapper.Info(p.s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if h != nil && info.UUID == dmcrypt.VolumeUUID(h.luks.UUID, p.s.Mapping) {
		return nil // an interrupted run's
	}
	return refuse(fault.MappingMismatch, "mapping %s exists and is not this volume: its uuid is %q", p.s.Mapping, info.UUID)
}

// securityState is the chip's, for sources that depend on it.
func (p *provisioning) securityState() caam.SecurityState {
	if p.s.Source != SourceCAAM {
		return caam.Unknown
	}
	return p.sys.SecurityState()
}

// requireClosed applies [ProvisionOptions.RequireClosed] to a key's state.
func (p *provisioning) requireClosed(state caam.SecurityState) error {
	switch {
	case !p.o.RequireClosed || p.s.Source == SourceCAAM && state == caam.Closed:
		return nil
	case p.s.Source != SourceCAAM:
		return refuse(fault.InsecureRefused, "a closed chip is required, and source %s does not use the chip", p.s.Source)
	case state == caam.Open:
		return refuse(fault.OpenStateRefused, "a closed chip is required, and the key was or would be made on an open one")
	}
	return refuse(fault.SecurityStateUnknown, "a closed chip is required, and whether this one is closed cannot be read")
}

func (p *provisioning) stateAllowed(state caam.SecurityState) error {
	if err := p.requireClosed(state); err != nil {
		return err
	}
	if p.s.Source != SourceCAAM {
		return nil
	}
	switch state {
	case caam.Open:
		if !p.s.AllowOpenState {
			return refuse(fault.OpenStateRefused, "this chip is open: its key is sealed with the test master key that all open chips share, and is lost when the chip is closed")
		}
		p.j.warn("this chip is open: every open chip can open this volume, and none can once it is closed")
	case caam.Unknown:
		p.j.warn("whether this chip is open or closed cannot be read; recorded as unknown")
	}
	return nil
}

func (p *provisioning) announceSteps(found survey) {
	if found.header == nil {
		if p.o.Wipe {
			p.j.would("overwrite what is on " + p.path)
		}
		p.j.would(fmt.Sprintf("create a key of %d bytes, source %s", p.s.KeySize, p.s.Source))
		if len(p.o.Recipients) > 0 {
			p.j.would("seal a recovery copy of it to " + strings.Join(p.o.Recipients, ", "))
		}
		p.j.would(fmt.Sprintf("write a header, data of %d bytes from byte %d of %s", found.layout.DataSize, found.layout.DataOffset, p.path))
	} else {
		if p.wipeAgain {
			p.j.would("overwrite what is on " + p.path)
		}
		p.j.would("go on with the provisioning that was interrupted")
	}
	p.j.would("prove the stored key")
	if p.s.Filesystem.Type != FilesystemNone {
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
	var created liveKey
	var err error
	defer p.forgetRed()
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
		err = p.exclusively(func(dev Device) error { return p.overwrite(ctx, dev) })
	}
	if err != nil {
		return err
	}
	p.uuid = h.luks.UUID
	if found.header != nil && (len(p.o.Recipients) > 0 || h.token.Recovery.Made()) {
		h, created, err = p.renewKey(ctx)
	}
	if err != nil {
		return err
	}
	if created != nil {
		defer created.wipe()
	}
	p.j.of(h, p.path)
	if err := ctx.Err(); err != nil {
		return err
	}
	key, err := p.proveStored(ctx, created)
	if err != nil {
		return err
	}
	defer key.wipe()
	if err := p.proveRecovery(ctx, key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return p.complete(ctx, key)
}

// createHeader makes the key and writes the first header. From here on the blob
// is on storage, and nothing has been encrypted with it.
func (p *provisioning) createHeader(ctx context.Context, found survey) (*header, liveKey, error) {
	uuid, err := p.newUUID()
	if err != nil {
		return nil, nil, err
	}
	if p.s.UUID != "" {
		uuid = p.s.UUID
	}
	state := p.securityState()
	var h *header
	var key liveKey
	err = p.exclusively(func(dev Device) error {
		if err := p.vacant(dev); err != nil {
			return err
		}
		if p.o.Wipe {
			if err := p.overwrite(ctx, dev); err != nil {
				return err
			}
		}
		request := keyRequest{uuid: uuid, generation: 1, wrap: caam.Wrap(p.s.Wrap), keySize: p.s.KeySize}
		var blob []byte
		var copied Recovery
		var err error
		if key, blob, copied, p.red, err = newKey(ctx, p.src, p.sys.Rand, request, p.o.Recipients); err != nil {
			return err
		}
		p.j.did("key created")
		token := Token{
			Source: p.s.Source, Phase: PhaseProvisioning, Generation: 1, Blob: blob, KeySize: p.s.KeySize,
			State: state, Created: p.sys.Now(), Recovery: copied,
		}
		if p.s.Source == SourceCAAM {
			token.Wrap = caam.Wrap(p.s.Wrap)
		}
		if h, err = newHeader(p.s, uuid, found.layout, token); err != nil {
			return err
		}
		return p.writeFirst(dev, h)
	})
	if err != nil {
		if key != nil {
			key.wipe()
		}
		return nil, nil, err
	}
	p.j.did("header written")
	return h, key, nil
}

// writeFirst puts the first header where there is none: on the device, or in a
// new file, which appears whole or not at all.
func (p *provisioning) writeFirst(dev Device, h *header) error {
	if !p.s.Detached() {
		if err := h.luks.Format(dev); err != nil {
			return fmt.Errorf("write the header to %s: %w", p.path, err)
		}
		return nil
	}
	image, err := h.luks.Image()
	if err != nil {
		return err
	}
	return p.sys.Files.Create(p.s.Header, image, 0o600)
}

// proveStored reads the header back from storage, opens its blob through the
// hardware and proves that this is the key that was created. created is nil
// when an earlier run made it; since no data exists in phase provisioning, the
// check may then be written again.
func (p *provisioning) proveStored(ctx context.Context, created liveKey) (liveKey, error) {
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Write: true, Direct: true})
	if err != nil {
		return nil, err
	}
	defer c.close()
	h, err := p.own(c)
	if err != nil {
		return nil, err
	}
	// On the device the record lies where the check goes; in a file it tells, until
	// the check does, why the device may be written.
	if !p.s.Detached() {
		if err := p.dropEraseRecord(p.s, c); err != nil {
			return nil, err
		}
	}
	key, err := p.src.open(ctx, h.keyRequest(), h.token.Blob)
	if err != nil {
		return nil, p.explainRejection(p.s, h, err)
	}
	if created == nil {
		created = key
		if h.check.InHeader() && p.proveByCheckArea(ctx, p.s, h, c, key) == nil {
			p.j.did("stored key proved")
			return key, nil
		}
	}
	err = p.writeCheck(ctx, h, c, created)
	if err == nil && p.s.Detached() {
		err = p.dropEraseRecord(p.s, c)
	}
	if err == nil {
		p.j.did("stored key proved")
		return key, nil
	}
	key.wipe()
	return nil, err
}

// writeCheck writes a new check with one key and reads it with the blob opened
// once more.
func (p *provisioning) writeCheck(ctx context.Context, h *header, c *container, created liveKey) error {
	newBlock := newCheckBlock
	if !h.check.InHeader() {
		newBlock = newDataCheck
	}
	block, err := newBlock(p.sys.Rand, h.binding())
	if err != nil {
		return err
	}
	h.check.Digest = sha256.Sum256(block)
	// Without a check area the data area serves, once: it holds nothing yet.
	at := area{device: c.data.Number(), offset: h.segment.Offset, size: checkAreaSize}
	if h.check.InHeader() {
		at = h.checkArea(c.header.Number())
		if err := h.write(c.header); err != nil {
			return fmt.Errorf("write the header: %w", err)
		}
	}
	if err := p.writeThrough(ctx, p.s, h, created, at, block); err != nil {
		return fmt.Errorf("write the check: %w", err)
	}
	again, err := p.src.open(ctx, h.keyRequest(), h.token.Blob)
	if err != nil {
		return err
	}
	defer again.wipe()
	got, err := p.readThrough(ctx, p.s, h, again, at, checkAreaSize)
	if err != nil {
		return fmt.Errorf("read the check back: %w", err)
	}
	if !h.check.fits(got, h.binding()) {
		return refuse(fault.KeyWrong, "the key that the stored blob opens to is not the one that was created")
	}
	return nil
}

func (h *header) keyRequest() keyRequest {
	return keyRequest{uuid: h.luks.UUID, generation: h.token.Generation, wrap: h.token.Wrap, keySize: h.token.KeySize}
}
