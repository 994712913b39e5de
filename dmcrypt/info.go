// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"
	"unsafe"

	devmapper "github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"imxcrypt/internal/devnum"
)

// Info is the state of a mapping.
type Info struct {
	Name, UUID string
	Number     Number
	// Opens is the open count; a mounted filesystem counts as one.
	Opens int
	// Targets is the number of targets in the live table.
	Targets int
	// EventNumber counts the mapping's events (DM_DEV_WAIT), not udev's.
	EventNumber uint32
	// Suspended: I/O queues until Resume.
	Suspended bool
	// Live and Inactive report which tables exist.
	Live, Inactive bool
	ReadOnly       bool
	// Removing: it is removed as soon as nothing has it open.
	Removing bool
}

// Ours reports whether the mapping is, by its UUID, that of a LUKS2 volume or one of its
// helpers, including cryptsetup's.
func (i Info) Ours() bool {
	return strings.HasPrefix(i.UUID, UUIDPrefixVolume) || strings.HasPrefix(i.UUID, UUIDPrefixHelper)
}

func infoOf(h *unix.DmIoctl) Info {
	return Info{
		Name: cString(h.Name[:]), UUID: cString(h.Uuid[:]), Number: devnum.Of(h.Dev),
		Opens: int(h.Open_count), Targets: int(h.Target_count), EventNumber: h.Event_nr,
		Suspended: h.Flags&unix.DM_SUSPEND_FLAG != 0,
		Live:      h.Flags&unix.DM_ACTIVE_PRESENT_FLAG != 0,
		Inactive:  h.Flags&unix.DM_INACTIVE_PRESENT_FLAG != 0,
		ReadOnly:  h.Flags&unix.DM_READONLY_FLAG != 0,
		Removing:  h.Flags&unix.DM_DEFERRED_REMOVE != 0,
	}
}

// Info returns a mapping's state, or ErrNotFound if no mapping has that name.
func (m *Mapper) Info(name string) (Info, error) {
	if err := ValidateName(name); err != nil {
		return Info{}, err
	}
	i, err := m.info(name)
	if err != nil {
		return Info{}, m.failure("ask the state", name, err)
	}
	return i, nil
}

// info accepts any name from the kernel, even one that we would not give.
func (m *Mapper) info(name string) (Info, error) {
	r := newRequest(name, 0)
	if err := m.do(unix.DM_DEV_STATUS, r); err != nil {
		return Info{}, err
	}
	return infoOf(r.header()), nil
}

// ByNumber returns the mapping with a device number, or ErrNotFound if the device is not
// a mapping.
func (m *Mapper) ByNumber(n Number) (Info, error) {
	const op = "look up the device"
	if _, err := m.control(); err != nil {
		return Info{}, err
	}
	d, err := devmapper.InfoByDevno(n.Dev())
	if err != nil {
		return Info{}, m.failure(op+" "+n.String(), "", err)
	}
	i, err := m.info(d.Name)
	if err != nil {
		return Info{}, m.failure(op, d.Name, err)
	}
	return i, nil
}

// Announced reports whether the node /dev/mapper/NAME leads to the mapping.
func (m *Mapper) Announced(name string) (bool, error) {
	info, err := m.Info(name)
	if err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Stat(m.Node(name), &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, &fs.PathError{Op: "stat", Path: m.Node(name), Err: err}
	}
	return st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == info.Number.Dev(), nil
}

// List returns all mappings whose UUID begins with one of the prefixes, sorted
// by name; all mappings if no prefix is given.
func (m *Mapper) List(uuidPrefixes ...string) ([]Info, error) {
	const op = "list the mappings"
	if _, err := m.control(); err != nil {
		return nil, err
	}
	items, err := devmapper.List()
	if err != nil {
		return nil, m.failure(op, "", err)
	}
	var all []Info
	for _, item := range items {
		if item.Name == "" {
			continue // the empty list is one entry without a name
		}
		i, err := m.info(item.Name)
		if errors.Is(err, unix.ENXIO) {
			continue // gone since
		}
		if err != nil {
			return nil, m.failure(op, item.Name, err)
		}
		if len(uuidPrefixes) == 0 || slices.ContainsFunc(uuidPrefixes, func(p string) bool { return strings.HasPrefix(i.UUID, p) }) {
			all = append(all, i)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, nil
}

// Table reads back the live table. It returns nil without an error if there is none.
func (m *Mapper) Table(name string) (Table, error) { return m.table(name, 0) }

// InactiveTable reads back the table that the next Resume makes live; nil if none is
// loaded.
func (m *Mapper) InactiveTable(name string) (Table, error) {
	return m.table(name, unix.DM_QUERY_INACTIVE_TABLE_FLAG)
}

func (m *Mapper) table(name string, flags uint32) (Table, error) {
	const op = "read the table"
	if err := ValidateName(name); err != nil {
		return nil, err
	}
	r, err := m.doOutput(unix.DM_TABLE_STATUS, name, func(h *unix.DmIoctl) {
		// SECURE_DATA: the kernel wipes its copy, since it may contain keys.
		h.Flags = unix.DM_STATUS_TABLE_FLAG | unix.DM_NOFLUSH_FLAG | unix.DM_SECURE_DATA_FLAG | flags
	})
	if err != nil {
		return nil, m.failure(op, name, err)
	}
	defer r.wipe()
	t, err := readStatus(r.output(), int(r.header().Target_count))
	if err != nil {
		return nil, named(err, op, name)
	}
	return t, nil
}

// readStatus reads the answer to DM_TABLE_STATUS: for each target a struct
// dm_target_spec, whose next field counts from the beginning of the data, followed by the
// parameters and a NUL.
func readStatus(out []byte, count int) (Table, error) {
	var t Table
	const header = unix.SizeofDmTargetSpec
	for next, i := 0, 0; i < count; i++ {
		if i >= maxTargets || next < 0 || len(out)-next < header {
			return nil, invalid(fmt.Errorf("the kernel's answer for target %d does not fit", i))
		}
		spec := out[next:]
		start := binary.NativeEndian.Uint64(spec[0:])
		length := binary.NativeEndian.Uint64(spec[8:])
		after := int(binary.NativeEndian.Uint32(spec[20:]))
		kind := cString(spec[24:header])
		params := spec[header:]
		for j, c := range params {
			if c == 0 {
				params = params[:j]
				break
			}
		}
		if start > maxSectors || length > maxSectors {
			return nil, invalid(fmt.Errorf("target %d (%s): start or length is too large", i, clip(kind)))
		}
		target, err := parseTarget(start, length, kind, asciiFields(params))
		if err != nil {
			return nil, invalid(fmt.Errorf("target %d: %w", i, err))
		}
		t = append(t, target)
		if after <= next && i+1 < count {
			return nil, invalid(fmt.Errorf("the kernel's answer goes in circles at target %d", i))
		}
		next = after
	}
	return t, nil
}

// Devices returns the devices that the live table uses, as the kernel holds them.
func (m *Mapper) Devices(name string) ([]Number, error) {
	const op = "ask for the devices under it"
	if err := ValidateName(name); err != nil {
		return nil, err
	}
	r, err := m.doOutput(unix.DM_TABLE_DEPS, name, func(*unix.DmIoctl) {})
	if err != nil {
		return nil, m.failure(op, name, err)
	}
	out := r.output()
	const header = int(unsafe.Sizeof(unix.DmTargetDeps{}))
	if len(out) < header {
		return nil, nil // no live table
	}
	count := int(binary.NativeEndian.Uint32(out))
	if count < 0 || count > (len(out)-header)/8 {
		return nil, &Error{Op: op, Name: name, Kind: ErrInvalid, Detail: "the kernel's answer does not fit"}
	}
	numbers := make([]Number, count)
	for i := range numbers {
		numbers[i] = devnum.Of(binary.NativeEndian.Uint64(out[header+8*i:]))
	}
	return numbers, nil
}

// Verify reads back a mapping and compares it with the wanted one: UUID, table and
// whether it can be written. The error is of the kind ErrMismatch, which names every
// difference, or ErrNotFound. Suspended mappings can match too; see Info.
func (m *Mapper) Verify(name, uuid string, want Table, readOnly bool) (Info, error) {
	i, err := m.Info(name)
	if err != nil {
		return i, err
	}
	live, err := m.Table(name)
	if err != nil {
		return i, err
	}
	if d := Compare(i, live, uuid, want, readOnly); len(d) > 0 {
		return i, &Error{Op: "compare the table", Name: name, Kind: ErrMismatch, Differences: d}
	}
	return i, nil
}

// Compare is Verify for a state that was already read.
func Compare(i Info, live Table, uuid string, want Table, readOnly bool) []string {
	var d differences
	if i.UUID != uuid {
		d = append(d, fmt.Sprintf("uuid is %q, wanted %q", i.UUID, uuid))
	}
	if !i.Live {
		return append(d, "no table is live")
	}
	if i.ReadOnly != readOnly {
		d.add("read-only", readOnly, i.ReadOnly)
	}
	return append(d, want.Diff(live)...)
}

// TargetVersion returns the version of one of the kernel's targets ("crypt"). If the
// target is a module, asking loads it if the kernel can. The error is ErrNoTarget if the
// kernel does not have it.
func (m *Mapper) TargetVersion(target string) (Version, error) {
	const op = "ask for the target"
	r, err := m.doOutput(unix.DM_GET_TARGET_VERSION, target, func(*unix.DmIoctl) {})
	if errors.Is(err, unix.ENOTTY) {
		// Kernels before 5.4 can only list what is loaded.
		r, err = m.doOutput(unix.DM_LIST_VERSIONS, "", func(*unix.DmIoctl) {})
	}
	if errors.Is(err, unix.EINVAL) {
		return Version{}, &Error{Op: op, Kind: ErrNoTarget, Detail: target, Err: err}
	}
	if err != nil {
		return Version{}, m.failure(op+" "+target, "", err)
	}
	v, ok := findVersion(r.output(), target)
	if !ok {
		return Version{}, &Error{Op: op, Kind: ErrNoTarget, Detail: target}
	}
	return v, nil
}

// findVersion walks a list of struct dm_target_versions, each followed by its name.
func findVersion(out []byte, target string) (Version, bool) {
	const header = int(unsafe.Sizeof(unix.DmTargetVersions{}))
	for len(out) >= header {
		next := int(binary.NativeEndian.Uint32(out))
		if cString(out[header:]) == target {
			return Version{
				binary.NativeEndian.Uint32(out[4:]), binary.NativeEndian.Uint32(out[8:]), binary.NativeEndian.Uint32(out[12:]),
			}, true
		}
		if next < header || next > len(out) {
			break
		}
		out = out[next:]
	}
	return Version{}, false
}
