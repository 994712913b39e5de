// SPDX-License-Identifier: Apache-2.0

package mkfs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// fsType is what differs between the filesystems.
type fsType struct {
	mkfs, fsck string
	label      int // longest label in bytes
	build      func(o Options) ([]string, error)
}

var types = map[string]fsType{
	"ext4":  {mkfs: "mkfs.ext4", fsck: "e2fsck", label: 16, build: ext4Arguments},
	"f2fs":  {mkfs: "mkfs.f2fs", fsck: "fsck.f2fs", label: 511, build: f2fsArguments},
	"xfs":   {mkfs: "mkfs.xfs", label: 12, build: xfsArguments},
	"btrfs": {mkfs: "mkfs.btrfs", label: 255, build: btrfsArguments},
	"vfat":  {mkfs: "mkfs.vfat", fsck: "fsck.vfat", label: 11, build: vfatArguments},
}

// arguments are those of the mkfs program, without the device.
func arguments(fstype string, o Options) ([]string, error) {
	t := types[fstype]
	switch {
	case len(o.Label) > t.label:
		return nil, &OptionError{Type: fstype, Option: "label", Reason: fmt.Sprintf("%q is longer than %d bytes", o.Label, t.label)}
	case strings.ContainsAny(o.Label, "\x00\n") || strings.HasPrefix(o.Label, "-"):
		return nil, &OptionError{Type: fstype, Option: "label", Reason: fmt.Sprintf("%q begins with a hyphen or contains a control character", o.Label)}
	case strings.ContainsAny(o.UUID, "\x00\n ") || strings.HasPrefix(o.UUID, "-"):
		return nil, &OptionError{Type: fstype, Option: "uuid", Reason: fmt.Sprintf("%q is none", o.UUID)}
	}
	for _, e := range o.Extra {
		if e == "" || strings.ContainsRune(e, 0) {
			return nil, &OptionError{Type: fstype, Option: strconv.Quote(e), Reason: "empty, or contains a NUL"}
		}
	}
	return t.build(o)
}

// optional is a flag with its value, or nothing for an empty value.
func optional(flag, value string) []string {
	if value == "" {
		return nil
	}
	return []string{flag, value}
}

// hasOption finds an option with a value, "-b 1024" or "-b1024", and returns
// the last such value.
func hasOption(args []string, flag string) (value string, ok bool) {
	for i := 0; i < len(args); i++ {
		rest, found := strings.CutPrefix(args[i], flag)
		switch {
		case !found:
		case rest != "":
			value, ok = rest, true
		case i+1 < len(args):
			i++
			value, ok = args[i], true
		}
	}
	return value, ok
}

// withoutOption removes an option with a value and returns what its values
// were.
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

// ext4Arguments. The inode tables are left to the kernel to zero after the
// first mount: writing them here costs 1.6 % of the device, a minute on 64 GB,
// and the group checksums keep the noise in them from being taken for inodes.
// The journal is zeroed here and now: it is small, and what stands in it is
// what a recovery reads.
func ext4Arguments(o Options) ([]string, error) {
	extra, extended := withoutOption(o.Extra, "-E")
	// mke2fs heeds the last -E only, and in it the last word of a kind.
	words := append([]string{"nodiscard,lazy_itable_init=1,lazy_journal_init=0"}, extended...)
	args := []string{"-F", "-q", "-E", strings.Join(words, ",")}
	switch value, given := hasOption(extra, "-b"); {
	case given:
		// A negative size is the least one that mke2fs may choose.
		if n, err := strconv.Atoi(strings.TrimPrefix(value, "-")); err == nil && n < o.SectorSize {
			return nil, tooSmall("ext4", "-b "+value, o.SectorSize)
		}
	case o.SectorSize > 1024:
		// Left alone, mke2fs takes 1 KiB for small devices, whatever the
		// sector size it sees.
		args = append(args, "-b", strconv.Itoa(o.SectorSize))
	}
	args = append(args, optional("-L", o.Label)...)
	args = append(args, optional("-U", o.UUID)...)
	return append(args, extra...), nil
}

func f2fsArguments(o Options) ([]string, error) {
	args := []string{"-f", "-q", "-t", "0"}
	args = append(args, optional("-l", o.Label)...)
	args = append(args, optional("-U", o.UUID)...)
	return append(args, o.Extra...), nil
}

func xfsArguments(o Options) ([]string, error) {
	args := []string{"-f", "-q", "-K"}
	if value, given := hasOption(o.Extra, "-s"); !given {
		if o.SectorSize > 512 {
			args = append(args, "-s", "size="+strconv.Itoa(o.SectorSize))
		}
	} else if n, err := strconv.Atoi(strings.TrimPrefix(value, "size=")); err == nil && n < o.SectorSize {
		return nil, tooSmall("xfs", "-s "+value, o.SectorSize)
	}
	// mkfs.xfs takes no suboption twice.
	given := slices.ContainsFunc(o.Extra, func(e string) bool { return strings.Contains(e, "uuid=") })
	if o.UUID != "" && !given {
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
	// -I: a mapping is no partition, and that is fine.
	args := []string{"-I"}
	if value, given := hasOption(o.Extra, "-S"); !given {
		if o.SectorSize > 512 {
			args = append(args, "-S", strconv.Itoa(o.SectorSize))
		}
	} else if n, err := strconv.Atoi(value); err == nil && n < o.SectorSize {
		return nil, tooSmall("vfat", "-S "+value, o.SectorSize)
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

func tooSmall(fstype, option string, sector int) error {
	return &OptionError{Type: fstype, Option: option, Reason: fmt.Sprintf("smaller than the volume's sectors of %d bytes, which would give I/O errors", sector)}
}
