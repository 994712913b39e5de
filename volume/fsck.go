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
)

// checkFilesystem runs the filesystem's checker before a mount, if the
// superblock asks for it; only on the announced mapping of a proved key, since a
// checker "repairs" noise too. A checker that is not installed is a warning: the
// kernel mounts without. One that leaves errors behind is an error of code
// filesystem-damaged, and nothing is mounted.
func (u *unlocking) checkFilesystem(ctx context.Context) error {
	if u.c.data.ReadOnly() || slices.Contains(u.s.Mount.Options, "ro") {
		return nil // a checker would write
	}
	needed, err := u.filesystemAsks()
	if err != nil || !needed {
		return err
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
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		return fault.New(fault.FilesystemDamaged, "the key is right, but the filesystem is damaged, and was not mounted", err)
	case repaired:
		u.j.warn(fmt.Sprintf("the %s filesystem was damaged and has been repaired", fstype))
	}
	u.j.did("filesystem checked")
	return nil
}

// inUse is who uses the mapping already: somebody may have mounted it by hand, in
// this namespace or in another, and not every checker refuses such a one.
func (u *unlocking) inUse() error {
	d, err := u.sys.Devices.Open(u.j.result.Mapping, blockdev.Flags{Exclusive: true})
	if err == nil {
		_ = d.Close() // nothing was written
	}
	var busy *blockdev.BusyError
	if errors.As(err, &busy) {
		return busy
	}
	return nil // anything else the checker or the mount will say better
}

// filesystemAsks tells whether the superblock asks for a check. The proof of the
// key has mostly read it already.
func (u *unlocking) filesystemAsks() (needed bool, err error) {
	if u.h.seen != nil {
		return u.h.seen.NeedsCheck, nil
	}
	d, err := u.sys.Devices.Open(u.j.result.Mapping, blockdev.Flags{Direct: true})
	if err != nil {
		return false, err
	}
	sb, err := fsprobe.ReadType(d, d.Size(), u.s.Filesystem.Type)
	if err = errors.Join(err, d.Close()); err != nil {
		// Whatever this is, the mount will say it better.
		return false, nil
	}
	return sb.NeedsCheck, nil
}
