// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
)

// awake returns a function that fails once the system has been suspended: on most
// chips the black keys under the mappings are dead then, and an ECB key would have
// all that is still to be moved copied as noise.
func (x *rotating) awake() func() error {
	before := x.sys.Slept()
	return func() error {
		if !x.sys.Slept().since(before) {
			return nil
		}
		return refuse(fault.KeysLost, "the system was suspended while the volume was rotated, in which most chips lose the keys that are in the kernel; what was copied since the last record is not trusted, and stays as it was")
	}
}

// stillOpen looks for the filesystem through the live volume. Its mappings were
// made by an earlier run, and when the system was suspended since, their keys may
// be dead: an ECB key would have the rest of the data copied as noise.
func (x *rotating) stillOpen() error {
	if x.h.token.Filesystem.Type == "" || x.s.Filesystem.Type == FilesystemNone {
		return nil // nothing there by which to know
	}
	info, err := x.sys.Mapper.Info(x.s.Mapping)
	if err != nil {
		return err
	}
	d, err := x.sys.Devices.Open(node(info.Number), blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	sb, err := fsprobe.Read(d, d.Size())
	if err = errors.Join(err, d.Close()); err == nil && sb.Verified {
		return nil
	}
	return fault.New(fault.KeysLost, "through the live mapping no filesystem is seen: its keys were lost in a suspend, or the filesystem is damaged", err)
}

// clearFreed overwrites the space that the data has left: the superblock in it
// would still be right under the old key, and an old copy of the header taken for
// a good one by it. At most a zone: behind it nothing proves a key.
func (x *rotating) clearFreed(ctx context.Context) error {
	old, moved, size := x.h.segment.Offset, x.h.next.segment.Offset, x.h.segment.Size
	from, to := old, moved // it went up
	if moved < old {
		from, to = moved+size, old+size
	}
	if to = min(to, from+maxZone); to <= from {
		return nil
	}
	// Durable before the header that forgets it.
	if err := errors.Join(zero(ctx, x.c.data, from, to), x.c.data.Flush()); err != nil {
		return fault.New(fault.IOFailed, "clear what the data has left on "+x.c.data.Path(), err)
	}
	x.j.did("free space cleared")
	return nil
}
