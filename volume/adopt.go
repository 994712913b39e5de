// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/internal/keysource"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// AdoptOptions describe how the volume is opened today. Fields left empty are taken from
// the configuration.
type AdoptOptions struct {
	// Blob is the file with the sealed key, in any form that can be converted.
	Blob string
	// Table is a line as `dmsetup table` prints it, or as it was given to `dmsetup
	// create`, where the device may be a path. It excludes Device, Cipher, SectorSize and
	// Offset.
	Table string
	// Device names the device as in the configuration, and is only compared with the
	// configured one.
	Device string
	// Cipher is the cipher in dm-crypt's notation.
	Cipher string
	// SectorSize is the size of an encryption sector in bytes.
	SectorSize int
	// Offset is where the data begins on the device, in sectors of 512 bytes,
	// as in a table.
	Offset uint64
	// DryRun proves that everything fits, and writes nothing.
	DryRun bool
	// Progress is called for each step when it is done.
	Progress func(Step)
}

// Adopt takes over a volume that was made with caam-keygen or a trusted key, keyctl and
// dmsetup: it writes a detached header for it. No byte of the device changes, so the old
// way of opening it still works.
//
// Before anything is written, the blob is opened and the device is mapped read-only: the
// filesystem's superblock must be seen and prove itself. If it does not, Adopt tries
// other parameters, also read-only, and the error says which of them fit.
func (m *Manager) Adopt(ctx context.Context, s spec.Volume, o AdoptOptions) (Result, error) {
	j := m.begin(s, o.Progress)
	err := adoptable(s)
	var sealed sealedFile
	if err == nil {
		sealed, err = m.readSealed(o.Blob)
	}
	if s = s.For(sealed.source(), ""); err == nil && s.Source == spec.SourceAuto {
		err = fault.Newf(fault.ConfigInvalid, "source auto: %s holds a key of source %s, which wrap, trusted, cipher or key_size of the configuration exclude", o.Blob, sealed.source())
	}
	if err == nil {
		err = m.onDevice(ctx, s, func(path string) error { return m.adopt(ctx, s, o, sealed, path, j) })
	}
	return j.result, Failed(ctx, "adopt", s, err)
}

func (m *Manager) adopt(ctx context.Context, s spec.Volume, o AdoptOptions, raw sealedFile, path string, j *runLog) error {
	j.result.Device = path
	data, err := m.sys.Devices.Open(path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer data.Close()
	a := &adopting{Manager: m, s: s, o: o, j: j, data: data}
	if a.recipe, err = m.recipeOf(ctx, s, o, data); err != nil {
		return err
	}
	if a.recipe.wraps() {
		if o.Cipher == "" && o.Table == "" {
			return fault.Newf(fault.AdoptMismatch, "%s is larger than 2 TiB: beyond that plain and plain64 differ, and the start of the filesystem does not show which is in use; give the cipher that the volume is opened with today (--cipher or --table)", path)
		}
		j.warn("beyond 2 TiB plain and plain64 differ, and the start of the filesystem does not show which is in use: " + a.recipe.cipher + " was taken as given, and is proved only below 2 TiB")
	}
	if err := a.understandBlob(raw); err != nil {
		return err
	}
	if done, err := a.alreadyAdopted(ctx); done || err != nil {
		return err
	}
	if err := a.refuseDecrypting(s); err != nil {
		return err
	}
	return a.run(ctx)
}

// adoptable returns an error if the configuration is not one that an adopted volume can
// have.
func adoptable(s spec.Volume) error {
	switch {
	case s.Ephemeral():
		return noHeader()
	case !s.Detached():
		return fault.Newf(fault.ConfigInvalid, "an adopted volume has its header in a file, since there is no room for one on its device: set header: /path/of/the/file")
	case !spec.Sealed(s.Source):
		return fault.Newf(fault.ConfigInvalid, "source %q: only volumes with keys of caam-keygen, and with trusted keys, can be adopted", s.Source)
	case !s.Filesystem.ProvesKey():
		return fault.Newf(fault.ConfigInvalid, "a volume with filesystem: %s cannot be adopted: nothing would prove its key", s.Filesystem)
	}
	return nil
}

// adopting is one run on one volume.
type adopting struct {
	*Manager
	s      spec.Volume
	o      AdoptOptions
	j      *runLog
	data   header.Device
	recipe recipe
	sealed sealed
}

// alreadyAdopted reports whether an earlier run has written this same header. Any other
// file in its place is left alone.
func (a *adopting) alreadyAdopted(ctx context.Context) (bool, error) {
	c, err := a.openContainer(a.s, a.data.Path(), blockdev.Flags{Direct: true})
	if fault.Is(err, fault.NotProvisioned) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer c.Close()
	h, err := header.Read(c)
	if err != nil {
		return false, fault.New(fault.FileExists, a.s.Header+" exists already", err)
	}
	if !bytes.Equal(h.Token.Blob, a.sealed.blob) || h.Segment.Offset != a.recipe.offset || h.Segment.Size != a.recipe.size ||
		h.Segment.Encryption != a.recipe.cipher || h.Segment.SectorSize != a.recipe.sectorSize {
		return false, fault.Newf(fault.FileExists, "%s exists already, with a header of another volume: %q, uuid %q", a.s.Header, h.LUKS.Label, h.LUKS.UUID)
	}
	a.j.identify(h, a.data.Path())
	a.j.result.Already = true
	if err := h.Matches(a.s); err != nil || !h.Unbound() {
		return true, err
	}
	// The run that wrote it was interrupted, or was of an earlier version.
	if a.o.DryRun {
		a.j.would("add a check of the key to " + a.s.Header)
		return true, nil
	}
	return true, a.bindWritten(ctx)
}

// bindWritten adds the check to the header. It allows the header to be unbound, since its
// blob and parameters are those that this run was given.
func (a *adopting) bindWritten(ctx context.Context) error {
	s := a.s
	s.AllowUnboundHeader = true
	return a.bind(ctx, s, a.data.Path(), a.j)
}

func (a *adopting) run(ctx context.Context) error {
	state := a.sys.SecurityState()
	if err := (&provisioning{Manager: a.Manager, s: a.s, j: a.j}).stateAllowed(state); err != nil {
		return err
	}
	if a.s.Source == spec.SourceTrusted && a.s.Cipher == keysource.CBC {
		a.j.warn("the IVs of " + keysource.CBC + " can be predicted: anyone who can get a file stored on the volume can prove that it is there; `imxcrypt rotate` changes the cipher")
	}
	h, err := a.newHeader(state)
	if err != nil {
		return err
	}
	a.j.identify(h, a.data.Path())
	key, err := a.openKey(ctx, a.s, h)
	if err != nil {
		return err
	}
	defer key.Wipe()
	a.j.did("blob opened on this chip")
	if err := a.warnOfUsers(); err != nil {
		return err
	}
	sb, err := a.look(ctx, h, key, a.recipe)
	if err != nil {
		return a.guess(ctx, h, key, err)
	}
	a.j.did(fmt.Sprintf("%s filesystem seen through it (%s)", sb.Type, sb.Proof))
	if sb.Type != a.s.Filesystem.Type {
		return fault.Newf(fault.FilesystemWrong, "the volume holds a %s filesystem, the configuration says %s", sb.Type, a.s.Filesystem.Type)
	}
	if err := h.Matches(a.s); err != nil {
		return fmt.Errorf("the blob, cipher and offset are right, but the volume cannot be opened with this configuration: %w", err)
	}
	h.Token.Filesystem = header.FilesystemID{Type: sb.Type, UUID: sb.UUID}
	if a.o.DryRun {
		a.j.would("write a header for it to " + a.s.Header)
		return nil
	}
	return a.write(ctx, h)
}

// warnOfUsers warns about current users of the device: adopting only reads, but unlocking
// will refuse to share it.
func (a *adopting) warnOfUsers() error {
	users, err := a.sys.Devices.Users(a.data.Number())
	if err == nil && !users.None() {
		a.j.warn("the device is in use (" + users.String() + "): close that before the volume is unlocked")
	}
	return err
}

// newHeader returns a header that describes the volume as the recipe opens it.
func (a *adopting) newHeader(state caam.SecurityState) (*header.Header, error) {
	uuid := a.s.UUID
	if uuid == "" {
		var err error
		if uuid, err = a.newUUID(); err != nil {
			return nil, err
		}
	}
	described := a.s
	described.Cipher, described.SectorSize = a.recipe.cipher, a.recipe.sectorSize
	return header.New(described, uuid, header.Layout{DataOffset: a.recipe.offset, DataSize: a.recipe.size}, header.Token{
		Source: a.s.Source, Phase: header.PhaseReady, Generation: 1, Blob: a.sealed.blob, Wrap: a.sealed.wrap,
		KeySize: a.sealed.keySize, State: state, Created: a.sys.Now(),
	})
}

// look maps the data read-only according to r and looks for a filesystem that proves
// itself.
func (a *adopting) look(ctx context.Context, h *header.Header, key source.Key, r recipe) (sb *fsprobe.Superblock, err error) {
	table := func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) { return r.table(a.data.Number(), ref) }
	err = a.kernel.WithPrivate(ctx, a.s.Mapping+mapping.CheckSuffix, h.LUKS.UUID, h.Token.Generation, key, true, table, func(view *mapping.Private) error {
		return mapping.WithDevice(view, false, func(d header.Device) (err error) {
			if sb, err = fsprobe.Read(d, d.Size()); err != nil {
				return err
			}
			if !sb.Verified {
				return fmt.Errorf("a %s superblock was found, but it cannot be verified: %s", sb.Type, sb.Proof)
			}
			return seamless(d, r)
		})
	})
	return sb, err
}

// write writes the header to its file, and proves it the way a later unlock will.
func (a *adopting) write(ctx context.Context, h *header.Header) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := h.Store(); err != nil {
		return err
	}
	image, err := h.LUKS.Image()
	if err != nil {
		return err
	}
	if err := a.sys.Files.Create(a.s.Header, image, 0o600); err != nil {
		return err
	}
	a.j.did("header written to " + a.s.Header)
	err = a.proveWritten(ctx)
	if err == nil {
		err = a.bindWritten(ctx)
	}
	if err != nil {
		// It is a new file that nothing relies on yet.
		return errors.Join(fmt.Errorf("the header that was written does not open the volume: %w", err), a.sys.Files.Remove(a.s.Header))
	}
	a.j.did("header proved")
	a.remember(a.s, h.LUKS.UUID)
	return nil
}

func (a *adopting) proveWritten(ctx context.Context) error {
	c, h, err := a.openHeader(a.s, a.data.Path(), blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.Close()
	key, err := a.openKey(ctx, a.s, h)
	if err != nil {
		return err
	}
	defer key.Wipe()
	sb, err := a.look(ctx, h, key, recipe{
		cipher: h.Segment.Encryption, sectorSize: h.Segment.SectorSize, offset: h.Segment.Offset, size: h.Segment.Size,
	})
	if err != nil {
		return err
	}
	if want := (header.FilesystemID{Type: sb.Type, UUID: sb.UUID}); want != h.Token.Filesystem {
		return fmt.Errorf("the filesystem is %v, the header says %v", want, h.Token.Filesystem)
	}
	return nil
}
