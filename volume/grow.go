// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"

	"imxcrypt/volume/header"
)

// A volume with `grow: true` grows into the space of its device when it is unlocked.
// Growing never keeps a volume from opening: a failure is a warning.

// grow takes the space, if there is any, before the volume is mapped. If there is none,
// it costs only a look at the device's size. h is the header afterwards.
func (m *Manager) grow(ctx context.Context, u *unlocking, path string) (h *header.Header) {
	if u.o.DryRun || u.o.ForRepair || u.h.Next != nil || u.c.Data.ReadOnly() {
		return u.h
	}
	room, err := u.h.Room(u.s, u.c, facts(u.c.Data))
	if err == nil && room <= u.h.Segment.Size {
		return u.h
	}
	if err == nil {
		err = (&resizing{Manager: m, s: u.s, j: u.j}).onPath(ctx, path)
	}
	if err != nil {
		u.j.warn("the volume did not grow: " + err.Error())
	}
	// The header and the live table may have grown, but not the filesystem.
	if h, err = header.Read(u.c); err != nil {
		return u.h
	}
	return h
}

// growMounted grows the mounted filesystem to the size of its mapping.
func (u *unlocking) growMounted() {
	if u.h.Next != nil || u.c.Data.ReadOnly() {
		return
	}
	grown, err := u.sys.Filesystems.Grow(u.s.Filesystem.Type, u.j.result.Mounted, u.h.Segment.Size)
	if err != nil {
		u.j.warn("the filesystem did not grow: " + err.Error())
	} else if grown {
		u.j.did(u.s.Filesystem.Type + " grown")
	}
}
