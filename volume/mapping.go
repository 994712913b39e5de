// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/keyring"
)

const sectorBytes = 512

// Private mappings carry a character that volume names cannot have, so they
// never meet a volume's own.
const (
	checkSuffix = ":check"
	mkfsSuffix  = ":mkfs"
)

// dataTable is the table of the volume's data.
func (h *header) dataTable(s Spec, data blockdev.Number, key dmcrypt.KeyRef) (dmcrypt.Table, error) {
	flags := slices.Clone(s.CryptFlags)
	if s.AllowDiscards {
		flags = append(flags, "allow_discards")
	}
	return h.table(area{device: data, offset: h.segment.Offset, size: h.segment.Size}, key, flags)
}

// area is a run of a device in bytes, with the sector number its IVs begin at.
type area struct {
	device       blockdev.Number
	offset, size int64
	ivOffset     uint64 // 512-byte units
}

// table maps one area with the volume's cipher.
func (h *header) table(a area, key dmcrypt.KeyRef, flags []string) (dmcrypt.Table, error) {
	options, err := dmcrypt.CryptOptions(h.segment.SectorSize, flags...)
	if err != nil {
		return nil, err
	}
	return dmcrypt.Table{dmcrypt.Crypt{
		Length: uint64(a.size / sectorBytes), Cipher: dmcrypt.Cipher(h.segment.Encryption), Key: key, IVOffset: a.ivOffset,
		Device: dmcrypt.Number{Major: a.device.Major, Minor: a.device.Minor},
		Offset: uint64(a.offset / sectorBytes), Options: options,
	}}, nil
}

// keyRef is how a live table of this header names its key.
func (h *header) description() string {
	return keyring.Describe(h.luks.UUID, h.token.Generation)
}

// mapped is a mapping that this run made and the system does not know yet.
type mapped struct {
	m    *Manager
	name string
	num  dmcrypt.Number
}

// activate makes a private mapping of table(key). A left-over of a run that was
// killed is taken away first; one that is open is somebody's and an error.
func (m *Manager) activate(ctx context.Context, name, uuid, description string, key liveKey, readOnly bool, table func(dmcrypt.KeyRef) (dmcrypt.Table, error)) (*mapped, error) {
	if err := m.removeLeftover(ctx, name, uuid); err != nil {
		return nil, err
	}
	a := &mapped{m: m, name: name}
	err := key.use(description, func(ref dmcrypt.KeyRef) error {
		t, err := table(ref)
		if err != nil {
			return err
		}
		a.num, err = m.sys.Mapper.Activate(ctx, name, uuid, t, readOnly)
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (m *Manager) removeLeftover(ctx context.Context, name, uuid string) error {
	info, err := m.sys.Mapper.Info(name)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.UUID != uuid {
		return refuse(fault.MappingMismatch, "mapping %s exists and is not ours: uuid %q", name, info.UUID)
	}
	return m.sys.Mapper.Remove(ctx, name)
}

// remove takes the mapping down. It goes on when ctx was cancelled: what a run
// made it cleans up.
func (a *mapped) remove(ctx context.Context) error {
	return a.m.sys.Mapper.Remove(context.WithoutCancel(ctx), a.name)
}

// node is the kernel's own name of the mapped device, which exists without
// udev and before the mapping is announced.
func (a *mapped) node() string { return fmt.Sprintf("/dev/dm-%d", a.num.Minor) }

// open opens the mapped device past the page cache: what is read comes through
// the key, not from a cache that another mapping filled.
func (a *mapped) open(write bool) (Device, error) {
	return a.m.sys.Devices.Open(a.node(), blockdev.Flags{Write: write, Direct: true})
}
