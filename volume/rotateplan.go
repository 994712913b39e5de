// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/caam"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// rotationPlan is what a rotation begins with.
type rotationPlan struct {
	source source.Source
	layout reencrypt.Layout
	state  caam.SecurityState
	copies copies
}

// plan applies every rule that may refuse a rotation that is not under way yet.
func (x *rotating) plan(ctx context.Context) (p rotationPlan, err error) {
	if p.source, err = x.sources.Of(x.s); err != nil {
		return p, err
	}
	if p.layout, err = x.h.PlanRotation(x.s, x.c); err != nil {
		return p, err
	}
	if p.state, err = x.stateAllowed(); err != nil {
		return p, err
	}
	if p.copies, err = x.copies(); err != nil {
		return p, err
	}
	if err := x.proveOld(ctx); err != nil {
		return p, err
	}
	if x.h.DescribeChanges(x.s) != "" { // otherwise the new key's table is like the old one's
		if err := x.tryKernel(ctx, x.s); err != nil {
			return p, err
		}
	}
	// A key may have shown what no fuse does.
	p.state, err = x.stateAllowed()
	return p, err
}

// planLocked is plan for a dry run, which holds the volume's lock only here: the old key
// is proved through mappings that every command makes.
func (x *rotating) planLocked(ctx context.Context) (p rotationPlan, err error) {
	err = x.locked(ctx, func() error {
		p, err = x.plan(ctx)
		return err
	})
	return p, err
}

// stateAllowed applies the rules about the chip's security state to a new key.
func (x *rotating) stateAllowed() (caam.SecurityState, error) {
	if !spec.Sealed(x.s.Source) {
		return caam.Unknown, nil
	}
	state := x.sys.SecurityState()
	if state == caam.Open && !x.s.AllowOpenState {
		return state, fault.Newf(fault.OpenStateRefused, "this chip is open: a new key would be sealed with the test master key that all open chips share, and lost when the chip is closed")
	}
	return state, nil
}

// proveOld proves the key that the data is under, and that the content of the volume can
// be used afterwards. The key of a detached header of an earlier version gets a check.
func (x *rotating) proveOld(ctx context.Context) error {
	// The configuration may ask for another source now.
	old, err := x.openProved(ctx, x.h.SpecAsStored(x.s), x.h, x.c, nil)
	if err != nil {
		return err
	}
	defer old.Wipe()
	// Data that is noise through the key belongs to another key, whatever the check says,
	// and encrypting the noise would destroy it. A damaged filesystem may be rotated.
	err = x.verifyFilesystem(ctx, x.s, x.h, x.c, old, x.j)
	if fault.Is(err, fault.KeyWrong) || ctx.Err() != nil {
		return err
	}
	if err != nil || !x.s.Filesystem.ProvesKey() {
		if err := x.allOfFilesystem(ctx, old); err != nil {
			return err
		}
	}
	if err := x.largerSectors(ctx, old); err != nil {
		return err
	}
	if x.h.Check.Exists() || x.o.DryRun {
		return nil
	}
	return x.kernel.DeriveCheck(ctx, x.s, x.h, x.c, old)
}

// allOfFilesystem refuses to rotate less than the filesystem. With the header from before
// a resize, the filesystem's end would be left under a key that nothing has any more, or
// be overwritten by the data that moves.
func (x *rotating) allOfFilesystem(ctx context.Context, old source.Key) error {
	if x.c.Detached() || !x.s.Filesystem.Made() {
		return nil
	}
	var size int64
	err := x.kernel.WithData(ctx, x.s, x.h, x.c.Data.Number(), old, func(a *mapping.Private) (err error) {
		size, err = mapping.Beyond(x.h, a)
		return err
	})
	if err == nil && size != 0 {
		err = fault.Newf(fault.HeaderRolledBack, "the %s filesystem has %d bytes, but the header says that the volume has %d: the header is from before a resize, and a rotation would lose the rest. `imxcrypt resize %s` gives the volume its size again",
			x.s.Filesystem.Type, size, x.h.Segment.Size, x.s.Name)
	}
	return err
}

func (x *rotating) announceSteps(ctx context.Context) error {
	switch {
	case x.decrypts:
		protected, rate, last := "protected by a journal", int64(journalRate), "remove "+x.s.Header
		if !x.c.Detached() {
			protected, rate = fmt.Sprintf("while they move down by %d bytes", x.h.Segment.Offset), gapRate
			last = fmt.Sprintf("put the first %d bytes of the filesystem where the header is", x.h.LUKS.Area())
		}
		x.j.would(fmt.Sprintf("decrypt %d bytes of %s in place, %s; %s", x.h.Segment.Size, x.c.Data.Path(), protected, durationAt(x.h.Segment.Size, rate)))
		x.j.would(last)
		return nil
	case x.h.Encrypting():
		x.j.would("continue to encrypt " + x.c.Data.Path())
		return nil
	case x.h.Decrypting():
		x.j.would("continue to decrypt " + x.c.Data.Path())
		return nil
	}
	if x.h.Next == nil {
		p, err := x.planLocked(ctx)
		if err != nil {
			return err
		}
		l, want := p.layout, p.copies
		if changes := x.h.DescribeChanges(x.s); changes != "" {
			x.j.would("change " + changes)
		}
		x.j.would(fmt.Sprintf("create a key of %d bytes, generation %d, and prove it", x.s.KeySize, x.h.Token.Generation+1))
		switch {
		case want.any():
			x.j.would("seal a recovery copy of it to " + want.String())
		case x.h.Token.Recovery.Made():
			x.j.would("make no recovery copy of it, which the old key has")
		}
		x.j.would(fmt.Sprintf("move %d bytes from byte %d to byte %d of %s, protected by a %s", l.DataSize, l.OldOffset, l.NewOffset, x.c.Data.Path(), l.Mode))
	} else {
		x.j.would(fmt.Sprintf("continue the rotation to generation %d", x.h.Next.Token.Generation))
	}
	x.j.would("remove the old key from the header")
	return nil
}

// largerSectors refuses crypt sectors that are too large for the filesystem: it writes in
// smaller pieces, which the device would no longer accept.
func (x *rotating) largerSectors(ctx context.Context, old source.Key) error {
	to := x.s.SectorSize
	if to <= x.h.Segment.SectorSize {
		return nil
	}
	if !x.s.Filesystem.Made() {
		return fault.Newf(fault.SectorsRefused, "sector_size %d: the volume is of filesystem: %s, so nothing shows in what pieces it is written; its sectors can only become smaller", to, x.s.Filesystem.Type)
	}
	sb, err := x.superblock(ctx, old)
	if errors.Is(err, fsprobe.ErrNone) {
		return fault.New(fault.SectorsRefused, fmt.Sprintf("sector_size %d: the filesystem is not a known one; its sectors can only become smaller", to), err)
	}
	if err != nil {
		return err
	}
	if sb.Sector < to {
		return fault.Newf(fault.SectorsRefused, "sector_size %d: the %s filesystem writes in pieces of %d bytes, and could no longer be used; it would have to be made again", to, sb.Type, sb.Sector)
	}
	return nil
}

// superblock reads the filesystem's superblock through a mapping of its own.
func (x *rotating) superblock(ctx context.Context, old source.Key) (sb *fsprobe.Superblock, err error) {
	err = x.kernel.WithData(ctx, x.s, x.h, x.c.Data.Number(), old, func(a *mapping.Private) (err error) {
		sb, err = mapping.Probe(a)
		return err
	})
	return sb, err
}
