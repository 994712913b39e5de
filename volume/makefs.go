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
)

// complete makes the filesystem and sets phase ready. It is called only in
// phase provisioning, which is what permits it to format.
func (p *provisioning) complete(ctx context.Context, key liveKey) error {
	c, err := p.openContainer(p.s, p.path, blockdev.Flags{Write: true, Direct: true})
	if err != nil {
		return err
	}
	defer c.close()
	h, err := p.own(c)
	if err != nil {
		return err
	}
	if p.s.Filesystem.Type != FilesystemNone {
		if h.token.Filesystem, err = p.makeFilesystem(ctx, h, c, key); err != nil {
			return err
		}
		p.j.did(p.s.Filesystem.Type + " made")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	h.token.Phase = PhaseReady
	if err := h.write(c.header); err != nil {
		return fmt.Errorf("mark the volume ready: %w", err)
	}
	p.j.did("marked ready")
	return nil
}

// makeFilesystem runs mkfs on a private mapping and reads back what it made.
func (p *provisioning) makeFilesystem(ctx context.Context, h *header, c *container, key liveKey) (id FilesystemID, err error) {
	name := p.s.Mapping + mkfsSuffix
	a, err := p.activate(ctx, name, dmcrypt.HelperUUID(h.luks.UUID, name), h.description(), key, false, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return h.dataTable(p.s, c.data.Number(), ref)
	})
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, a.remove(ctx)) }()
	err = p.sys.Filesystems.Make(ctx, p.s.Filesystem.Type, a.node(), mkfs.Options{
		Label: p.s.Filesystem.Label, UUID: h.filesystemUUID(p.s.Filesystem.Type),
		SectorSize: p.s.SectorSize, Extra: p.s.Filesystem.Options,
	})
	if err != nil {
		return id, err
	}
	err = withDevice(a, true, func(d Device) error {
		// mkfs may have left its writes in the page cache.
		if err := d.Flush(); err != nil {
			return err
		}
		sb, err := fsprobe.ReadType(d, d.Size(), p.s.Filesystem.Type)
		if err != nil {
			return err
		}
		if !sb.Verified && !h.check.InHeader() {
			// No later unlock could prove the key by it.
			return fmt.Errorf("its superblock does not prove itself (%s), and a detached header has no other check", sb.Proof)
		}
		id = FilesystemID{Type: sb.Type, UUID: sb.UUID}
		return nil
	})
	switch {
	case errors.Is(err, fsprobe.ErrNone):
		return id, fault.New(fault.IOFailed, fmt.Sprintf("the filesystem that mkfs made is not on %s any more: the storage does not keep what is written, or somebody else writes to it", p.path), err)
	case errors.Is(err, unix.EIO):
		return id, fault.New(fault.IOFailed, "read back the filesystem that mkfs made on "+p.path, err)
	case err != nil:
		return id, fault.New(fault.FilesystemWrong, "the filesystem that mkfs made cannot be read back", err)
	}
	return id, nil
}

// finish unlocks and mounts what is ready now.
func (p *provisioning) finish(ctx context.Context) error {
	if p.o.NoMount {
		return nil
	}
	if _, err := p.unlockLocked(ctx, p.s, p.path, UnlockOptions{Mount: p.s.Mount.Path != ""}, p.j); err != nil {
		return fmt.Errorf("provisioned, but: %w", err)
	}
	return nil
}
