// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
)

// AdoptOptions say how the volume is opened today. What is left out is taken
// from the configuration.
type AdoptOptions struct {
	// Blob is the file of the sealed key, in any form that can be converted.
	Blob string
	// Table is a line of `dmsetup table`, or as it was given to dmsetup create,
	// where the device may be a path. It excludes the fields that follow.
	Table string
	// Device as in the configuration; only compared with it.
	Device string
	// Cipher in dm-crypt's notation.
	Cipher string
	// SectorSize is the encryption sector in bytes.
	SectorSize int
	// Offset is where the data begins on the device, in sectors of 512 bytes,
	// as in a table.
	Offset uint64
	// DryRun proves that everything fits, and writes nothing.
	DryRun bool
	// Progress is told of each step when it is done.
	Progress func(Step)
}

// Adopt takes over a volume that was made with caam-keygen, keyctl and dmsetup:
// it writes a detached header for it. No byte of the device changes, so the old
// way of opening it goes on working.
//
// Before anything is written the blob is opened and the device is mapped
// read-only: the filesystem's superblock must be seen and prove itself. Where it
// does not, other parameters are tried, read-only too, and the error says which
// of them fit.
func (m *Manager) Adopt(ctx context.Context, s Spec, o AdoptOptions) (Result, error) {
	j := m.begin(s, o.Progress)
	err := adoptable(s)
	if err == nil {
		err = m.onDevice(ctx, s, func(path string) error { return m.adopt(ctx, s, o, path, j) })
	}
	return j.result, failed(ctx, "adopt", s, err)
}

func (m *Manager) adopt(ctx context.Context, s Spec, o AdoptOptions, path string, j *journey) error {
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
			return refuse(fault.AdoptMismatch, "%s is larger than 2 TiB: there plain and plain64 differ, which the filesystem's beginning does not show; give the cipher that the volume is opened with today (--cipher or --table)", path)
		}
		j.warn("beyond 2 TiB plain and plain64 differ, which the filesystem's beginning does not show: " + a.recipe.cipher + " was taken as it was given, and is proved below 2 TiB only")
	}
	if err := a.readBlob(); err != nil {
		return err
	}
	if done, err := a.alreadyAdopted(); done || err != nil {
		return err
	}
	return a.run(ctx)
}

// adoptable judges the configuration: what it must say for an adopted volume.
func adoptable(s Spec) error {
	switch {
	case !s.Detached():
		return refuse(fault.ConfigInvalid, "an adopted volume has its header in a file, since there is no room for one on its device: set header: /path/of/the/file")
	case s.Source != SourceCAAM:
		return refuse(fault.ConfigInvalid, "source %q: only volumes with keys of caam-keygen can be adopted", s.Source)
	case s.Filesystem.Type == FilesystemNone:
		return refuse(fault.ConfigInvalid, "a volume without a filesystem cannot be adopted: there would be nothing to prove its key by")
	}
	return nil
}

// adopting is one run over one volume.
type adopting struct {
	*Manager
	s      Spec
	o      AdoptOptions
	j      *journey
	data   Device
	recipe recipe
	blob   caam.Blob
}

func (a *adopting) readBlob() error {
	raw, err := a.sys.Files.Read(a.o.Blob, atomicfile.ReadOptions{MaxSize: maxKeyFile, FollowLinks: true})
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Usage, "--blob", err)
	}
	if err != nil {
		return err
	}
	if a.blob, err = caam.Convert(raw); err != nil {
		return fault.New(fault.BlobDamaged, a.o.Blob, err)
	}
	if !bytes.Equal(a.blob, raw) {
		a.j.did("blob converted from an older form")
	}
	wrap, n := a.blob.Wrap(), a.blob.RedKeyLen()
	if want := caam.BlackKeySize(wrap, n); a.recipe.keySize != 0 && a.recipe.keySize != want {
		return refuse(fault.AdoptMismatch, "the table names a key of %d bytes, a %s key of the %d bytes in %s has %d: table and blob do not belong together",
			a.recipe.keySize, wrap, n, a.o.Blob, want)
	}
	return nil
}

// alreadyAdopted tells whether an earlier run has written the very header. Any
// other file in its place is left alone.
func (a *adopting) alreadyAdopted() (bool, error) {
	c, err := a.openContainer(a.s, a.data.Path(), blockdev.Flags{Direct: true})
	if fault.Is(err, fault.NotProvisioned) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer c.close()
	h, err := readHeader(c)
	if err != nil {
		return false, fault.New(fault.FileExists, a.s.Header+" exists already", err)
	}
	if !bytes.Equal(h.token.Blob, a.blob) || h.segment.Offset != a.recipe.offset || h.segment.Size != a.recipe.size ||
		h.segment.Encryption != a.recipe.cipher || h.segment.SectorSize != a.recipe.sectorSize {
		return false, refuse(fault.FileExists, "%s exists already, with a header of another volume: %q, uuid %q", a.s.Header, h.luks.Label, h.luks.UUID)
	}
	a.j.of(h, a.data.Path())
	a.j.result.Already = true
	return true, h.matches(a.s)
}

func (a *adopting) run(ctx context.Context) error {
	state := a.sys.SecurityState()
	if err := (&provisioning{Manager: a.Manager, s: a.s, j: a.j}).stateAllowed(state); err != nil {
		return err
	}
	h, err := a.newHeader(state)
	if err != nil {
		return err
	}
	a.j.of(h, a.data.Path())
	src, err := a.sourceOf(a.s)
	if err != nil {
		return err
	}
	key, err := src.open(ctx, h.keyRequest(), a.blob)
	if err != nil {
		return a.explainRejection(a.s, h, err)
	}
	defer key.wipe()
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
		return refuse(fault.FilesystemWrong, "the volume holds a %s filesystem, the configuration says %s", sb.Type, a.s.Filesystem.Type)
	}
	if err := h.matches(a.s); err != nil {
		return fmt.Errorf("everything fits, but the volume could not be opened with this configuration: %w", err)
	}
	h.token.Filesystem = FilesystemID{Type: sb.Type, UUID: sb.UUID}
	if a.o.DryRun {
		a.j.would("write a header for it to " + a.s.Header)
		return nil
	}
	return a.write(ctx, h, src)
}

// warnOfUsers tells who has the device open today: adopting reads only, but
// unlocking will refuse to share it.
func (a *adopting) warnOfUsers() error {
	users, err := a.sys.Devices.Users(a.data.Number())
	if err == nil && !users.None() {
		a.j.warn("the device is in use (" + users.String() + "): close that before the volume is unlocked")
	}
	return err
}

// newHeader describes the volume as the recipe opens it.
func (a *adopting) newHeader(state caam.SecurityState) (*header, error) {
	uuid := a.s.UUID
	if uuid == "" {
		var err error
		if uuid, err = a.newUUID(); err != nil {
			return nil, err
		}
	}
	described := a.s
	described.Cipher, described.SectorSize = a.recipe.cipher, a.recipe.sectorSize
	return newHeader(described, uuid, Layout{DataOffset: a.recipe.offset, DataSize: a.recipe.size}, Token{
		Source: SourceCAAM, Phase: PhaseReady, Generation: 1, Blob: a.blob, Wrap: a.blob.Wrap(),
		KeySize: a.blob.RedKeyLen(), State: state, Created: a.sys.Now(),
	})
}

// look maps the data read-only as r says and looks for a filesystem that proves
// itself.
func (a *adopting) look(ctx context.Context, h *header, key liveKey, r recipe) (_ *fsprobe.Superblock, err error) {
	name := a.s.Mapping + checkSuffix
	view, err := a.activate(ctx, name, dmcrypt.HelperUUID(h.luks.UUID, name), h.description(), key, true, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return r.table(a.data.Number(), ref)
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, view.remove(ctx)) }()
	var sb *fsprobe.Superblock
	err = withDevice(view, false, func(d Device) error {
		if sb, err = fsprobe.Read(d, d.Size()); err != nil {
			return err
		}
		if !sb.Verified {
			return fmt.Errorf("a %s superblock is seen, but it does not prove itself: %s", sb.Type, sb.Proof)
		}
		return seamless(d, r)
	})
	return sb, err
}

// write puts the header into its file, and proves it as a later unlock will.
func (a *adopting) write(ctx context.Context, h *header, src source) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := h.store(); err != nil {
		return err
	}
	image, err := h.luks.Image()
	if err != nil {
		return err
	}
	if err := a.sys.Files.Create(a.s.Header, image, 0o600); err != nil {
		return err
	}
	a.j.did("header written to " + a.s.Header)
	if err := a.proveWritten(ctx, src); err != nil {
		// It is a new file that nobody has relied on yet.
		return errors.Join(fmt.Errorf("the header that was written does not open the volume: %w", err), a.sys.Files.Remove(a.s.Header))
	}
	a.j.did("header proved")
	return nil
}

func (a *adopting) proveWritten(ctx context.Context, src source) error {
	c, h, err := a.openHeader(a.s, a.data.Path(), blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.close()
	key, err := src.open(ctx, h.keyRequest(), h.token.Blob)
	if err != nil {
		return err
	}
	defer key.wipe()
	sb, err := a.look(ctx, h, key, recipe{
		cipher: h.segment.Encryption, sectorSize: h.segment.SectorSize, offset: h.segment.Offset, size: h.segment.Size,
	})
	if err != nil {
		return err
	}
	if want := (FilesystemID{Type: sb.Type, UUID: sb.UUID}); want != h.token.Filesystem {
		return fmt.Errorf("the filesystem is %v, the header says %v", want, h.token.Filesystem)
	}
	return nil
}
