// SPDX-License-Identifier: Apache-2.0

package mkfs

import (
	"fmt"
	"strconv"
	"strings"
)

// fsType is what differs between filesystem types.
type fsType struct {
	name       string
	mkfs, fsck string
	label      int    // longest label in bytes
	noLabel    string // characters that the label cannot have
	options    func() optionRules
	build      func(o Options) ([]string, error)
}

// typeOf finds a filesystem type; false if it is not known.
func typeOf(name string) (fsType, bool) {
	switch name {
	case "ext4":
		return fsType{name: name, mkfs: "mkfs.ext4", fsck: "e2fsck", label: 16, options: ext4Options, build: ext4Arguments}, true
	case "f2fs":
		// The superblock has room for twice as many, but the kernel's ioctls do not
		// (FSLABEL_MAX).
		return fsType{name: name, mkfs: "mkfs.f2fs", fsck: "fsck.f2fs", label: 255, options: f2fsOptions, build: f2fsArguments}, true
	case "xfs":
		return fsType{name: name, mkfs: "mkfs.xfs", label: 12, noLabel: " \t", options: xfsOptions, build: xfsArguments}, true
	case "btrfs":
		return fsType{name: name, mkfs: "mkfs.btrfs", label: 255, noLabel: "\\/", options: btrfsOptions, build: btrfsArguments}, true
	case "vfat":
		return fsType{name: name, mkfs: "mkfs.vfat", fsck: "fsck.vfat", label: 11, noLabel: "\"*+,./:;<=>?[\\]|", options: vfatOptions, build: vfatArguments}, true
	}
	return fsType{}, false
}

// arguments returns the arguments of the mkfs program, without the device.
func (t fsType) arguments(o Options) ([]string, error) {
	if reason, _ := t.labelProblem(o.Label); reason != "" {
		return nil, &OptionError{Type: t.name, Option: "label", Reason: reason}
	}
	switch {
	case strings.ContainsAny(o.UUID, "\x00\n ") || strings.HasPrefix(o.UUID, "-"):
		return nil, &OptionError{Type: t.name, Option: "uuid", Reason: fmt.Sprintf("%q is not a UUID", o.UUID)}
	}
	var bad error
	t.options().check(o.Extra, o.SectorSize, func(i int, reason, _ string) {
		if bad == nil {
			bad = &OptionError{Type: t.name, Option: strconv.Quote(o.Extra[i]), Reason: reason}
		}
	})
	if bad != nil {
		return nil, bad
	}
	return t.build(o)
}

// optional returns a flag with its value, or nothing for an empty value.
func optional(flag, value string) []string {
	if value == "" {
		return nil
	}
	return []string{flag, value}
}

// withoutOption removes an option with a value and returns its values.
func withoutOption(args []string, flag string) (rest, values []string) {
	for i := 0; i < len(args); i++ {
		v, found := strings.CutPrefix(args[i], flag)
		switch {
		case !found:
			rest = append(rest, args[i])
		case v != "":
			values = append(values, v)
		case i+1 < len(args):
			i++
			values = append(values, args[i])
		}
	}
	return rest, values
}

// ext4Arguments leaves the inode tables to the kernel to zero after the first mount:
// writing them here costs 1.6 % of the device, a minute on 64 GB, and the group checksums
// keep the noise in them from being taken for inodes. The journal is zeroed right away:
// it is small, and a recovery reads what is in it.
func ext4Arguments(o Options) ([]string, error) {
	extra, extended := withoutOption(o.Extra, "-E")
	// mke2fs uses only the last -E, and in it the last word of a kind.
	words := append([]string{"nodiscard,lazy_itable_init=1,lazy_journal_init=0"}, extended...)
	args := []string{"-F", "-q", "-E", strings.Join(words, ",")}
	if _, blocks := withoutOption(extra, "-b"); len(blocks) == 0 && o.SectorSize > 1024 {
		// By default, mke2fs uses 1 KiB for small devices, whatever the sector size it
		// sees.
		args = append(args, "-b", strconv.Itoa(o.SectorSize))
	}
	if group := ext4Group(o); group > 0 {
		args = append(args, "-g", strconv.FormatInt(group, 10))
	}
	args = append(args, optional("-L", o.Label)...)
	args = append(args, optional("-U", o.UUID)...)
	return append(args, extra...), nil
}

// ext4Group returns how many blocks a block group has if one of the usual size would hold
// the whole device: half of them, so that the second group begins with a backup of the
// superblock. 0 leaves it to mke2fs, also if options of the configuration may choose
// another block size, and on devices too small to spare any.
func ext4Group(o Options) int64 {
	const block, least = 4096, 16 << 20
	blocks := o.size / block
	if o.SectorSize != block || len(o.Extra) > 0 || o.size < least || blocks > 8*block {
		return 0
	}
	return (blocks + 15) / 16 * 8 // a multiple of 8
}

func f2fsArguments(o Options) ([]string, error) {
	args := []string{"-f", "-q", "-t", "0"}
	args = append(args, optional("-l", o.Label)...)
	args = append(args, optional("-U", o.UUID)...)
	return append(args, o.Extra...), nil
}

func xfsArguments(o Options) ([]string, error) {
	args := []string{"-f", "-q", "-K"}
	if o.SectorSize > 512 {
		args = append(args, "-s", "size="+strconv.Itoa(o.SectorSize))
	}
	if o.UUID != "" {
		args = append(args, "-m", "uuid="+o.UUID)
	}
	args = append(args, optional("-L", o.Label)...)
	return append(args, o.Extra...), nil
}

func btrfsArguments(o Options) ([]string, error) {
	args := []string{"-f", "-q", "-K"}
	args = append(args, optional("-L", o.Label)...)
	args = append(args, optional("-U", o.UUID)...)
	return append(args, o.Extra...), nil
}

func vfatArguments(o Options) ([]string, error) {
	// -I: a mapping is not a partition, and that is fine.
	args := []string{"-I"}
	if o.SectorSize > 512 {
		args = append(args, "-S", strconv.Itoa(o.SectorSize))
	}
	if o.UUID != "" {
		serial := strings.ReplaceAll(o.UUID, "-", "")
		if _, err := strconv.ParseUint(serial, 16, 32); err != nil || len(serial) != 8 {
			return nil, &OptionError{Type: "vfat", Option: "uuid", Reason: fmt.Sprintf("%q is not of the form 1A2B-3C4D", o.UUID)}
		}
		args = append(args, "-i", serial)
	}
	// FAT keeps labels in capitals; mkfs.vfat warns about any other.
	args = append(args, optional("-n", strings.ToUpper(o.Label))...)
	return append(args, o.Extra...), nil
}
