// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/volume/mapping"
)

// checkFilesystem runs the filesystem's checker before a mount, if the superblock asks
// for it. It does so only on the announced mapping of a proved key, since a checker
// "repairs" noise too. If the checker is not installed, that is a warning: the kernel
// mounts without. If it leaves errors behind, the error has code filesystem-damaged and
// nothing is mounted.
func (u *unlocking) checkFilesystem(ctx context.Context) error {
	if u.c.Data.ReadOnly() || slices.Contains(u.s.Mount.Options, "ro") {
		return nil // a checker would write
	}
	if sb := u.superblock(); sb == nil || !sb.NeedsCheck {
		return nil
	}
	if inUse := u.inUse(); inUse != nil {
		u.j.warn(fmt.Sprintf("the %s filesystem asks for a check, and was not checked: %v", u.s.Filesystem.Type, inUse))
		return nil
	}
	fstype, node := u.s.Filesystem.Type, u.j.result.Mapping
	repaired, err := u.sys.Filesystems.Check(ctx, fstype, node)
	switch {
	case fault.Is(err, fault.ProgramMissing):
		u.j.warn(fmt.Sprintf("the %s filesystem asks for a check, and there is no program for it", fstype))
		return nil
	case err != nil && (interrupted(ctx, err) || errors.Is(err, context.DeadlineExceeded)):
		return err
	case err != nil:
		return fault.New(fault.FilesystemDamaged, "the key is right, but the filesystem is damaged, and was not mounted", err)
	case repaired:
		u.j.warn(fmt.Sprintf("the %s filesystem was damaged and has been repaired", fstype))
	}
	u.j.did("filesystem checked")
	return nil
}

// inUse returns an error that names the users of the mapping, if there are any: the
// filesystem may have been mounted by hand, in this namespace or another, and not every
// checker refuses a mounted one.
func (u *unlocking) inUse() error {
	d, err := u.sys.Devices.Open(u.j.result.Mapping, blockdev.Flags{Exclusive: true})
	if err == nil {
		_ = d.Close() // nothing was written
	}
	var busy *blockdev.BusyError
	if errors.As(err, &busy) {
		return busy
	}
	return nil // the checker or the mount reports anything else better
}

// superblock returns the superblock in the volume, or nil if there is no sound filesystem
// of the volume's type: the mount reports that better. Usually the proof of the key has
// read it already.
func (u *unlocking) superblock() *fsprobe.Superblock {
	if u.h.Seen != nil {
		return u.h.Seen
	}
	d, err := u.sys.Devices.Open(u.j.result.Mapping, blockdev.Flags{Direct: true})
	if err != nil {
		return nil
	}
	sb, err := fsprobe.ReadType(d, d.Size(), u.s.Filesystem.Type)
	if errors.Join(err, d.Close()) != nil {
		return nil
	}
	return sb
}

// hasImage refuses to mount a volume that an updater writes if it holds no filesystem of
// the configured type: none was written yet, or a different one, or only half of one.
func (u *unlocking) hasImage(ctx context.Context) error {
	fstype := u.s.Filesystem.Type
	if u.s.Filesystem.ProvesKey() {
		return nil
	}
	if !fsprobe.IsReadOnly(fstype) {
		if u.superblock() != nil {
			return nil
		}
		if err := u.notNoise(ctx); err != nil {
			return err
		}
		return u.noImage()
	}
	d, err := u.sys.Devices.Open(u.j.result.Mapping, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	there, err := fsprobe.HasMark(d, d.Size(), fstype)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	if !there {
		return u.noImage()
	}
	return nil
}

// notNoise distinguishes a half-written slot from data under a different key than the
// header's, before an error advises overwriting it: the check may be as old as the
// header. Provisioning has made a filesystem there, so with the right key some of it
// makes sense.
func (u *unlocking) notNoise(ctx context.Context) error {
	info, err := u.sys.Mapper.Info(u.s.Mapping)
	if err != nil || u.h.Next != nil {
		return err
	}
	live := &mapping.Private{K: u.kernel, Name: u.s.Mapping, Num: info.Number}
	if seen, err := mapping.SeeData(ctx, u.h, u.c, live, lookedAt); err != nil || seen.Proved || !seen.Noise {
		return err
	}
	return noiseError(u.s.Filesystem.Type, nil)
}

func (u *unlocking) noImage() error {
	return fault.Newf(fault.FilesystemMissing, "the key is right, but the volume holds no %s image: write one to %s", u.s.Filesystem.Type, u.j.result.Mapping)
}

// fitsSectors refuses a filesystem that was made for smaller sectors, for example in an
// image that was written to the volume: the kernel reports only EINVAL.
func (u *unlocking) fitsSectors() error {
	sb, sector := u.superblock(), u.h.Segment.SectorSize
	if sb == nil || sb.Sector >= sector {
		return nil
	}
	option := map[string]string{fsprobe.Ext4: "-b ", fsprobe.VFAT: "-S ", fsprobe.XFS: "-s size="}[sb.Type]
	if option == "" {
		option = "sector size "
	}
	return fault.Newf(fault.FilesystemWrong, "the %s filesystem was made for blocks of %d bytes, and the volume has sectors of %d: make it with mkfs.%s %s%d", sb.Type, sb.Sector, sector, sb.Type, option, sector)
}
