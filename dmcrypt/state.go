// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"context"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/devnum"
)

// SuspendFlag says how a mapping is suspended.
type SuspendFlag uint32

const (
	// SkipLockFS does not freeze the filesystem on the mapping. Freezing writes to it,
	// and waits forever if I/O is held further below.
	SkipLockFS SuspendFlag = unix.DM_SKIP_LOCKFS_FLAG
	// NoFlush does not wait for I/O in flight but queues it again.
	NoFlush SuspendFlag = unix.DM_NOFLUSH_FLAG
)

// Visibility says what udev does with the event of a resumed mapping. The values are
// libdevmapper's DM_UDEV_* flags, shifted by 16 as the kernel passes them on in
// DM_COOKIE, with a cookie of zero, so that nothing waits on a semaphore.
type Visibility uint32

const (
	// Public is DM_UDEV_PRIMARY_SOURCE_FLAG alone. Without it udev's rules consider
	// the event spurious: no by-uuid links, and systemd never sees the device.
	Public Visibility = 0x400000
	// Private adds the flags that disable the rules: nothing probes the device, and
	// /dev/mapper/NAME is not made. On a public device it would delete that node.
	Private Visibility = 0x6f0000
	// Unchanged gives no flags: udev's rules take those of the mapping's previous event
	// from their database. With flags they run `dmsetup udevflags` for each event.
	Unchanged Visibility = 0
)

// Suspend stops a mapping's I/O; requests queue until it is resumed. The caller must
// resume the mapping on every path.
func (m *Mapper) Suspend(ctx context.Context, name string, flags SuspendFlag) error {
	const op = "suspend the device"
	if err := ctx.Err(); err != nil {
		return &Error{Op: op, Name: name, Err: err}
	}
	r := newRequest(name, 0)
	r.header().Flags = unix.DM_SUSPEND_FLAG | uint32(flags)
	if err := m.do(unix.DM_DEV_SUSPEND, r); err != nil {
		return m.failure(op, name, err)
	}
	return nil
}

// Resume resumes a mapping's I/O, with the inactive table if one is loaded. The flags
// apply to the suspend that the kernel does first if the mapping was not suspended. It
// takes no context: nothing must prevent a resume.
func (m *Mapper) Resume(name string, v Visibility, flags SuspendFlag) error {
	if _, err := m.resume(name, v, flags); err != nil {
		return m.failure("resume the device", name, err)
	}
	return nil
}

func (m *Mapper) resume(name string, v Visibility, flags SuspendFlag) (*unix.DmIoctl, error) {
	r := newRequest(name, 0)
	r.header().Flags = uint32(flags)
	r.header().Event_nr = uint32(v)
	if err := m.do(unix.DM_DEV_SUSPEND, r); err != nil {
		return nil, err
	}
	return r.header(), nil
}

// Swap replaces the live table of a mapping in use: load, suspend, resume. Open files
// stay open. If it fails, the old table is live again and resumed. v must be Public for a
// public mapping.
func (m *Mapper) Swap(ctx context.Context, name string, t Table, readOnly bool, v Visibility, flags SuspendFlag) error {
	if err := m.Load(ctx, name, t, readOnly); err != nil {
		return err
	}
	if err := m.Suspend(ctx, name, flags); err != nil {
		_ = m.Clear(name) // the failure to suspend is what counts
		return err
	}
	if err := m.Resume(name, v, flags); err != nil {
		// The kernel has discarded the new table and left the mapping suspended with the
		// old one.
		_ = m.Clear(name)
		if failed := m.Resume(name, v, flags); failed != nil {
			return failed
		}
		return err
	}
	return nil
}

// Rename renames a mapping and removes the old node; Announce makes the new node of a
// public mapping.
func (m *Mapper) Rename(name, newName string, v Visibility) error {
	const op = "rename the device"
	if err := ValidateName(newName); err != nil {
		return named(err, op, name)
	}
	h, err := m.rename(name, newName, 0, v)
	if err != nil {
		return m.failure(op, name, err)
	}
	m.nodes.disappear(name, devnum.Of(h.Dev), true)
	return nil
}

// SetUUID gives a UUID to a mapping that has none; the kernel refuses to change one.
func (m *Mapper) SetUUID(name, uuid string) error {
	const op = "set the uuid"
	if err := ValidateUUID(uuid); err != nil {
		return named(err, op, name)
	}
	if _, err := m.rename(name, uuid, unix.DM_UUID_FLAG, Private); err != nil {
		return m.failure(op, name, err)
	}
	return nil
}

func (m *Mapper) rename(name, value string, flags uint32, v Visibility) (*unix.DmIoctl, error) {
	r := newRequest(name, len(value)+1)
	r.header().Flags = flags
	r.header().Event_nr = uint32(v)
	copy(r.data(), value)
	if err := m.do(unix.DM_DEV_RENAME, r); err != nil {
		return nil, err
	}
	return r.header(), nil
}
