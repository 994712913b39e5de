// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"imxcrypt/internal/plainfile"

	"golang.org/x/sys/unix"
)

// Find resolves a device specification to the path of a device:
//
//	/dev/mmcblk2p3       a path to a block device or a regular file
//	PARTLABEL=, PARTUUID= of a partition, from sysfs or the partition table
//	LABEL=, UUID=        of a LUKS header or a filesystem
//	eMMC:PARTLABEL=data  only on one controller: see [CutController]
//	eMMC:part3           its third partition
//
// A path that would be one of udev's links (/dev/disk/by-partlabel/data) and does not
// exist is looked up by the property it is named after; of by-path links, only those of
// eMMCs and SD cards. Mappings and loop devices are searched like any other device;
// suspended mappings and the private pieces of a volume under rotation are not. Of
// stacked devices, the lowest one is found.
//
// Errors are *SpecError, *NotFoundError or *AmbiguousError, or say why the devices cannot
// be listed.
func (s System) Find(ctx context.Context, spec string) (string, error) {
	controller, rest := CutController(spec)
	tag, value, err := s.parseSpec(rest, controller)
	if err != nil {
		return "", err
	}
	if tag == tagPath {
		return value, s.checkPath(spec, value)
	}
	nodes, err := s.nodes()
	if err != nil {
		return "", err
	}
	f := finder{System: s, controller: controller, tag: tag, value: value, nodes: nodes}
	found, err := f.search(ctx, identify)
	if err == nil && len(found) == 0 && (tag == tagLabel || tag == tagUUID) {
		f.unreadable = nil
		found, err = f.search(ctx, identifyByCopy)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("look for device %q: %w", spec, err)
	case len(found) == 0:
		return "", &NotFoundError{Spec: spec, Unreadable: f.unreadable, Elsewhere: f.elsewhere(ctx)}
	case len(found) > 1:
		return "", &AmbiguousError{Spec: spec, Candidates: found, Details: f.details(found)}
	}
	return found[0], nil
}

// elsewhere lists the devices that would match on another controller, with details of
// where they are.
func (f *finder) elsewhere(ctx context.Context) []string {
	if f.controller == "" || f.tag == tagPart {
		return nil
	}
	anywhere := finder{System: f.System, tag: f.tag, value: f.value, nodes: f.nodes}
	found, err := anywhere.search(ctx, identify)
	if err != nil {
		return nil // that nothing was found is enough to report
	}
	return withDetails(found, anywhere.details(found))
}

// Wait is Find, but gives a device time to appear: it retries until ctx ends, and then
// returns the last *NotFoundError, joined with the cause. It returns any other error at
// once.
func (s System) Wait(ctx context.Context, spec string) (string, error) {
	const first, most = 5 * time.Millisecond, 100 * time.Millisecond
	for pause := first; ; pause = min(2*pause, most) {
		path, err := s.Find(ctx, spec)
		var missing *NotFoundError
		if !errors.As(err, &missing) {
			return path, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return "", errors.Join(missing, context.Cause(ctx))
		case <-timer.C:
		}
	}
}

// The properties that can identify a device.
const (
	tagPath      = ""
	tagPartLabel = "PARTLABEL"
	tagPartUUID  = "PARTUUID"
	tagLabel     = "LABEL"
	tagUUID      = "UUID"
	tagByPath    = "by-path" // of a link only
	tagPart      = "part"    // of a controller's disk only
)

// udevLinks lists the folders of udev's links and the property that each stands for.
var udevLinks = [...]struct{ dir, tag string }{
	{"disk/by-partlabel", tagPartLabel},
	{"disk/by-partuuid", tagPartUUID},
	{"disk/by-label", tagLabel},
	{"disk/by-uuid", tagUUID},
	{"disk/by-path", tagByPath},
}

func (s System) parseSpec(spec, controller string) (tag, value string, err error) {
	if strings.ContainsAny(spec, "\x00\n") {
		return "", "", &SpecError{Spec: spec, Reason: "contains a control character"}
	}
	if controller != "" {
		if number, ok := strings.CutPrefix(spec, "part"); ok {
			return tagPart, number, nil
		}
		if strings.HasPrefix(spec, "/") {
			return "", "", &SpecError{Spec: controller + ":" + spec, Reason: "a path is not looked for on a controller"}
		}
	}
	if strings.HasPrefix(spec, "/") {
		path := filepath.Clean(spec)
		if _, err := os.Lstat(path); err != nil {
			for _, l := range udevLinks {
				if name, ok := strings.CutPrefix(path, s.dev(l.dir)+"/"); ok {
					return l.tag, unescapeUdev(name), nil
				}
			}
		}
		return tagPath, path, nil
	}
	tag, value, ok := strings.Cut(spec, "=")
	switch {
	case !ok:
		return "", "", &SpecError{Spec: spec, Reason: "neither an absolute path nor one of PARTLABEL=, PARTUUID=, LABEL=, UUID="}
	case tag != tagPartLabel && tag != tagPartUUID && tag != tagLabel && tag != tagUUID:
		return "", "", &SpecError{Spec: spec, Reason: "is looked up by an unknown property; known are PARTLABEL, PARTUUID, LABEL, UUID"}
	}
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1] // as fstab(5) allows
	}
	if value == "" {
		return "", "", &SpecError{Spec: spec, Reason: "has no value"}
	}
	return tag, value, nil
}

// unescapeUdev undoes escapes like \x20, which udev writes for characters that must not
// be in the name of a link.
func unescapeUdev(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if strings.HasPrefix(s[i:], `\x`) && i+4 <= len(s) {
			if v, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (s System) checkPath(spec, path string) error {
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return &NotFoundError{Spec: spec}
	case err != nil:
		return openError(path, err)
	}
	_, err := kindOf(path, st.Mode)
	return err
}

// finder matches devices against a specification.
type finder struct {
	System
	controller string // empty: any
	tag, value string
	nodes      []node
	unreadable []string
	tables     map[string]table
}

// details returns what distinguishes devices that match the same specification.
func (f *finder) details(paths []string) []string {
	all := make([]string, len(paths))
	for _, n := range f.nodes {
		i := slices.Index(paths, f.path(n.name))
		if i < 0 {
			continue
		}
		var parts []string
		if n.partition > 0 {
			if uuid := f.partUUID(n); uuid != "" {
				parts = append(parts, "PARTUUID="+uuid)
			}
		}
		if sectors, err := plainfile.Attribute(f.block(n.name, "size")); err == nil {
			if count, err := strconv.ParseInt(sectors, 10, 64); err == nil {
				parts = append(parts, fmt.Sprintf("%d MiB", count>>11))
			}
		}
		// The disk's link names the host that it is attached to:
		// "…/30b60000.mmc/mmc_host/mmc2/mmc2:0001".
		if device, err := filepath.EvalSymlinks(f.block(f.disk(n.name), "device")); err == nil {
			on := hostOf(device)
			if kind := map[string]string{"MMC": EMMC, "SD": "SD card"}[f.cardType(n)]; kind != "" {
				on = kind + " " + on
			}
			parts = append(parts, "on "+on)
		}
		all[i] = strings.Join(parts, ", ")
	}
	return all
}

// hostOf returns the part of a device's path in sysfs that shows where it is plugged in:
// the controller with an address, and the device itself.
func hostOf(device string) string {
	parts := strings.Split(device, "/")
	last := parts[len(parts)-1]
	for _, p := range slices.Backward(parts[:len(parts)-1]) {
		if strings.Contains(p, ".") || strings.Count(p, ":") >= 2 {
			return p + "/" + last
		}
	}
	return last
}

// search returns the sorted paths of all devices that match. identify reads their
// identities.
func (f *finder) search(ctx context.Context, identify identifier) ([]string, error) {
	var names []string
	for _, n := range f.nodes {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if f.matches(n, identify) {
			names = append(names, n.name)
		}
	}
	var found []string
	for _, name := range names {
		if !f.liesOn(name, names, 0) {
			found = append(found, f.path(name))
		}
	}
	slices.Sort(found)
	return found, nil
}

// liesOn reports whether a device is stacked on one of others: an open volume may
// have the same property inside.
func (f *finder) liesOn(name string, others []string, depth int) bool {
	for _, below := range f.links(name, "slaves") {
		if slices.Contains(others, below) || depth < maxStack && f.liesOn(below, others, depth+1) {
			return true
		}
	}
	return false
}

type identifier func(r io.ReaderAt, size int64) (identity, error)

// table is a disk's partition table, read at most once per search.
type table struct {
	gpt   []tableEntry
	mbrID uint32
}

func (f *finder) matches(n node, identify identifier) bool {
	if f.controller != "" && !f.hangsOn(n, f.controller) {
		return false
	}
	switch f.tag {
	case tagPart:
		return n.partition > 0 && strconv.Itoa(n.partition) == f.value
	case tagPartLabel:
		return n.partition > 0 && f.partLabel(n)
	case tagPartUUID:
		return n.partition > 0 && strings.EqualFold(f.partUUID(n), f.value)
	case tagByPath:
		return f.byPath(n) == f.value
	}
	if !f.worthProbing(n) {
		return false
	}
	var id identity
	err := f.withDevice(n.name, func(d *Device) (err error) {
		id, err = identify(d, d.Size())
		return err
	})
	if err != nil {
		f.unreadable = append(f.unreadable, fmt.Sprintf("%s: %v", f.path(n.name), err))
		return false
	}
	if f.tag == tagLabel {
		return id.label == f.value
	}
	return strings.EqualFold(id.uuid, f.value)
}

// partLabel compares with the kernel's name if that is enough. The kernel replaces or
// drops everything but ASCII, so any other name has to be read from the table.
func (f *finder) partLabel(n node) bool {
	if n.hasPartName && plainName(f.value) {
		return n.partName == f.value
	}
	for _, e := range f.table(n).gpt {
		if e.number == n.partition {
			return e.name == f.value
		}
	}
	return n.hasPartName && n.partName == f.value
}

// plainName reports whether the kernel shows a partition's name unchanged.
func plainName(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '!' {
			return false
		}
	}
	return true
}

func (f *finder) partUUID(n node) string {
	if n.partUUID != "" {
		return n.partUUID
	}
	t := f.table(n)
	for _, e := range t.gpt {
		if e.number == n.partition {
			return e.uuid
		}
	}
	if t.mbrID != 0 {
		return mbrPartUUID(t.mbrID, n.partition)
	}
	return ""
}

// table reads the partition table of the disk that n is a partition of. An unreadable
// table is recorded, and counts as empty.
func (f *finder) table(n node) table {
	disk := f.disk(n.name)
	if t, ok := f.tables[disk]; ok {
		return t
	}
	var t table
	err := f.withDevice(disk, func(d *Device) error {
		var err error
		t.gpt, t.mbrID, err = readTable(d, d.Size(), max(d.LogicalBlockSize(), 512))
		return err
	})
	if err != nil && !errors.Is(err, errNoTable) {
		f.unreadable = append(f.unreadable, fmt.Sprintf("partition table of %s: %v", disk, err))
	}
	if f.tables == nil {
		f.tables = map[string]table{}
	}
	f.tables[disk] = t
	return t
}

// unprobed lists devices that are not worth probing, or that probing harms or slows down:
// memory, NAND without bad-block handling, drives, the network. The eMMC's
// replay-protected block is another: each read of it is an error after a time-out.
var unprobed = [...]string{"ram", "zram", "mtdblock", "fd", "sr", "nbd"}

// worthProbing excludes devices that cannot hold a filesystem of their own.
func (f *finder) worthProbing(n node) bool {
	for _, p := range unprobed {
		if rest, ok := strings.CutPrefix(n.name, p); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return false
		}
	}
	if strings.HasPrefix(n.name, "mmcblk") && strings.HasSuffix(n.name, "rpmb") {
		return false
	}
	if !f.hasSize(n.name) {
		return false
	}
	if isMapping(n.name) {
		// A piece of a stack shows the superblock of the whole.
		if uuid, err := plainfile.Attribute(f.block(n.name, "dm/uuid")); err == nil && strings.HasPrefix(uuid, "CRYPT-SUBDEV-") {
			return false
		}
	}
	if f.suspended(n.name, 0) {
		f.unreadable = append(f.unreadable, f.path(n.name)+": suspended")
		return false
	}
	return n.partition > 0 || !f.partitioned(n.name)
}

// partitioned reports whether a whole disk has partitions. It then holds those, whatever
// its first sectors look like.
func (f *finder) partitioned(disk string) bool {
	for _, n := range f.nodes {
		if n.partition > 0 && strings.HasPrefix(n.name, disk) && f.disk(n.name) == disk {
			return true
		}
	}
	return false
}

// withDevice opens a device bypassing the page cache, so that a search neither fills
// it nor reads stale data.
func (f *finder) withDevice(name string, do func(*Device) error) error {
	d, err := f.Open(f.path(name), Flags{Direct: true})
	if err != nil {
		return err
	}
	return errors.Join(do(d), d.Close())
}
