// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strings"
	"unicode"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/internal/mkfs"
)

func (v *validator) filesystem(f *Filesystem, detached bool, sectorSize int, at string) {
	if v.spoilt(join(at, "type")) || !v.word(join(at, "type"), f.Type, filesystemTypes()...) {
		return // the rest depends on it
	}
	if field := join(at, "uuid"); f.UUID != "" {
		switch {
		case !v.word(field, f.UUID, AnyUUID):
		case !mkfs.Known(f.Type):
			v.problem(field, "a volume of type "+f.Type+" is not known by a UUID", "leave it out: an updater may write it as it is")
		case detached:
			v.problem(field, "a detached header knows its device by the filesystem's UUID", "leave it out, or put the header on the device")
		}
	}
	if !mkfs.Known(f.Type) {
		if f.Label != "" {
			v.problem(join(at, "label"), "no filesystem is made that could have a label", "leave it out, or choose a type")
		}
		if len(f.Options) > 0 {
			v.problem(join(at, "options"), "no filesystem is made", "leave them out, or choose a type")
		}
		return
	}
	if field := join(at, "label"); v.has(field) { // the default fits
		if reason, remedy := mkfs.LabelProblem(f.Type, f.Label); reason != "" {
			v.problem(field, reason, remedy)
		}
	}
	if len(f.Options) > 0 {
		mkfs.CheckOptions(f.Type, f.Options, sectorSize, func(i int, reason, remedy string) {
			v.problem(item(join(at, "options"), i), reason, remedy)
		})
	}
}

func (v *validator) grow(vol *Volume, at string) {
	if t := vol.Filesystem.Type; vol.Grow && (t == "vfat" || t == "f2fs" || fsprobe.IsReadOnly(t)) && !v.spoilt(join(at, "filesystem.type")) {
		v.problem(join(at, "grow"), "a "+t+" filesystem does not grow while it is mounted", "leave it out, or choose ext4, xfs or btrfs")
	}
}

func (v *validator) onPlaintext(vol *Volume, at string) {
	field := join(at, "on_plaintext")
	if v.spoilt(field) || !v.word(field, string(vol.OnPlaintext), string(RefusePlaintext), string(EncryptPlaintext)) || vol.OnPlaintext != EncryptPlaintext {
		return
	}
	f := vol.Filesystem
	switch {
	case !v.spoilt(join(at, "filesystem.type")) && !mkfs.Known(f.Type) || f.UUID != "":
		v.problem(field, "a volume without a filesystem that stays the same is not encrypted in place", "leave it out, or name the filesystem that the device has, without uuid")
	case vol.Ephemeral():
		v.problem(field, "has no meaning with key: ephemeral, whose device was marked by provisioning", "leave it out")
	case blockdev.ByContent(vol.Device):
		v.problem(field, quote(vol.Device)+" is found by the filesystem on it, which is no longer visible once it is encrypted", certainRemedy)
	case !v.spoilt(join(at, "device")) && v.has(join(at, "device")) && !certain(vol):
		v.problem(field, quote(vol.Device)+uncertain+", and what is in plain text there would be encrypted", certainRemedy)
	}
}

func (v *validator) mount(vol *Volume, at string) {
	m := &vol.Mount
	if !v.has(at) || v.given[at].null || v.spoilt(at) {
		return
	}
	field := join(at, "path")
	if !v.has(field) {
		v.problem(field, "is missing", "give the mount point, as in path: /data, or write mount: null")
		return
	}
	if vol.Filesystem.Type == FilesystemSwap {
		v.problem(at, "swap is not mounted (filesystem: swap)", "leave mount out")
		return
	}
	if vol.Filesystem.Type == FilesystemNone && !v.spoilt(parent(at)+".filesystem.type") {
		v.problem(at, "there is no filesystem to mount (filesystem: none)", "leave mount out, or choose a filesystem")
		return
	}
	if v.absolute(field, m.Path) {
		if reason, remedy := MountPointProblem(m.Path); reason != "" {
			v.problem(field, reason, remedy)
		}
	}
	seen := map[string]bool{}
	for i, word := range m.Options {
		at := item(join(at, "options"), i)
		reason, remedy := mountOptionProblem(word)
		switch {
		case reason != "":
			v.problem(at, reason, remedy)
		case word == "rw" && fsprobe.IsReadOnly(vol.Filesystem.Type):
			v.problem(at, "nothing writes to "+vol.Filesystem.Type, "leave it out")
		case seen[word]:
			v.problem(at, word+" is given twice", "keep one")
		}
		seen[word] = true
	}
}

// MountPointProblem returns why nothing can be mounted on an absolute path without
// symbolic links; reason is empty if something can.
func MountPointProblem(p string) (reason, remedy string) {
	if p == "/" {
		return "the running system is mounted there", "in an initramfs mount the root volume where it hands over, as in /sysroot"
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if below(p, dir) {
			return p + " is the kernel's", "choose another mount point"
		}
	}
	for _, dir := range []string{"/run", "/etc", "/usr", "/bin", "/sbin", "/lib"} {
		if p == dir {
			return "mounting over " + p + " would hide what runs from there", "choose another mount point"
		}
	}
	return "", ""
}

// mountOptionProblem checks one word of mount -o.
func mountOptionProblem(word string) (reason, remedy string) {
	switch {
	case word == "":
		return "is empty", "leave it out"
	case strings.Contains(word, ","):
		return quote(word) + " is more than one option", "write each as an item of its own: [" + strings.ReplaceAll(word, ",", ", ") + "]"
	case strings.ContainsFunc(word, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }):
		return quote(word) + " holds a blank or control character", "write each option as an item of its own"
	}
	name, _, _ := strings.Cut(word, "=")
	switch name {
	case "nofail":
		return "nofail is for fstab", "write required: false for the volume"
	case "noauto":
		return "noauto is for fstab", "write at_boot: false for the volume"
	case "auto", "defaults", "user", "nouser", "users", "owner", "group", "_netdev", "comment":
		return name + " is for fstab", "leave it out"
	case "bind", "rbind", "move", "remount", "loop", "offset", "sizelimit":
		return name + " would mount something other than the volume", "leave it out"
	case "journal_path", "journal_dev", "logdev", "rtdev", "device":
		return name + " would use a device outside the encrypted volume", "leave it out"
	}
	if strings.HasPrefix(word, "x-") || strings.HasPrefix(word, "X-") {
		return quote(word) + " is for fstab", "leave it out"
	}
	return "", ""
}
