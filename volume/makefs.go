// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/internal/mkfs"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
)

// complete makes the filesystem and sets phase ready. It runs only in phase provisioning,
// which is what permits formatting.
func (p *provisioning) complete(ctx context.Context, key source.Key) error {
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Write: true, Direct: true})
	if err != nil {
		return err
	}
	defer c.Close()
	h, err := p.rereadOwn(c)
	if err != nil {
		return err
	}
	if p.s.Filesystem.Made() {
		if h.Token.Filesystem, err = p.makeFilesystem(ctx, h, c, key); err != nil {
			return err
		}
		p.j.did(p.s.Filesystem.Type + " made")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	h.Token.Phase = header.PhaseReady
	if err := h.Write(c.Header); err != nil {
		return fmt.Errorf("mark the volume ready: %w", err)
	}
	p.j.did("marked ready")
	return nil
}

// makeFilesystem runs mkfs on a private mapping and reads back what it made.
func (p *provisioning) makeFilesystem(ctx context.Context, h *header.Header, c *header.Storage, key source.Key) (id header.FilesystemID, err error) {
	table := func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return mapping.DataTable(h, p.s, c.Data.Number(), ref)
	}
	err = p.kernel.WithPrivate(ctx, p.s.Mapping+mapping.MkfsSuffix, h.LUKS.UUID, h.Token.Generation, key, false, table, func(a *mapping.Private) error {
		id, err = p.makeFilesystemOn(ctx, h, a)
		return err
	})
	return id, err
}

// makeFilesystemOn is makeFilesystem on the private mapping.
func (p *provisioning) makeFilesystemOn(ctx context.Context, h *header.Header, a *mapping.Private) (id header.FilesystemID, err error) {
	err = p.sys.Filesystems.Make(ctx, p.s.Filesystem.Type, a.Node(), mkfs.Options{
		Label: p.s.Filesystem.Label, UUID: h.FilesystemUUID(p.s.Filesystem.Type),
		SectorSize: p.s.SectorSize, Extra: p.s.Filesystem.Options,
	})
	if err != nil {
		return id, err
	}
	err = mapping.WithDevice(a, true, func(d header.Device) error {
		// mkfs may have left its writes in the page cache.
		if err := d.Flush(); err != nil {
			return err
		}
		sb, err := fsprobe.ReadType(d, d.Size(), p.s.Filesystem.Type)
		if err != nil {
			return err
		}
		if !sb.Verified && !h.Check.InHeader() {
			// Otherwise no later unlock could prove the key by it.
			return fmt.Errorf("its superblock cannot be verified (%s), and a detached header has no other check", sb.Proof)
		}
		id = header.FilesystemID{Type: sb.Type, UUID: sb.UUID}
		return nil
	})
	switch {
	case errors.Is(err, fsprobe.ErrNone):
		return id, fault.New(fault.IOFailed, fmt.Sprintf("the filesystem that mkfs made is no longer on %s: the storage does not keep what is written, or another program writes to it", p.path), err)
	case errors.Is(err, unix.EIO):
		return id, fault.New(fault.IOFailed, "read back the filesystem that mkfs made on "+p.path, err)
	case err != nil:
		return id, fault.New(fault.FilesystemWrong, "the filesystem that mkfs made cannot be read back", err)
	}
	return id, nil
}

// finish unlocks and mounts the volume, which is ready now.
func (p *provisioning) finish(ctx context.Context) error {
	p.remember(p.s, p.j.result.UUID)
	if p.o.NoMount {
		return nil
	}
	_, err := p.unlockLocked(ctx, p.s, p.path, UnlockOptions{Mount: p.s.Mount.Path != ""}, p.j)
	if !p.s.Filesystem.ProvesKey() && fault.Is(err, fault.FilesystemMissing) {
		p.j.warn(err.Error()) // the volume is unlocked, so that a filesystem can be written
		return nil
	}
	if err != nil {
		return fmt.Errorf("provisioned, but: %w", err)
	}
	return nil
}
