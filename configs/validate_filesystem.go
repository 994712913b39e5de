// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strconv"
	"strings"
	"unicode"
)

func (v *validator) filesystem(f *Filesystem, sectorSize int, at string) {
	if v.spoilt(join(at, "type")) || !v.word(join(at, "type"), f.Type, filesystemTypes()...) {
		return // the rest depends on it
	}
	if f.Type == FilesystemNone {
		if f.Label != "" {
			v.problem(join(at, "label"), "there is no filesystem to have a label", "leave it out, or choose a type")
		}
		if len(f.Options) > 0 {
			v.problem(join(at, "options"), "there is no filesystem to make", "leave them out, or choose a type")
		}
		return
	}
	rules, _ := filesystemOf(f.Type)
	switch field := join(at, "label"); {
	case !v.has(field): // the default fits
	case len(f.Label) > rules.labelBytes:
		v.problem(field, quote(f.Label)+" has "+strconv.Itoa(len(f.Label))+" bytes; "+f.Type+" has room for "+strconv.Itoa(rules.labelBytes), "shorten it")
	case strings.ContainsAny(f.Label, rules.noLabel):
		v.problem(field, quote(f.Label)+" holds a character that "+f.Type+" does not take in a label", "use letters, digits, - and _")
	case strings.ContainsFunc(f.Label, unicode.IsControl):
		v.problem(field, quote(f.Label)+" holds a control character", "use letters, digits, - and _")
	case strings.HasPrefix(f.Label, "-"):
		v.problem(field, quote(f.Label)+" begins with a dash, as an option does", "use another label")
	}
	if len(f.Options) > 0 {
		rules.options().check(f.Options, sectorSize, func(i int, reason, remedy string) {
			v.problem(item(join(at, "options"), i), reason, remedy)
		})
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
	if vol.Filesystem.Type == FilesystemNone && !v.spoilt(parent(at)+".filesystem.type") {
		v.problem(at, "there is no filesystem to mount (filesystem: none)", "leave mount out, or choose a filesystem")
		return
	}
	if v.absolute(field, m.Path) {
		v.mountPath(m.Path, field)
	}
	seen := map[string]bool{}
	for i, word := range m.Options {
		at := item(join(at, "options"), i)
		reason, remedy := mountOptionProblem(word)
		switch {
		case reason != "":
			v.problem(at, reason, remedy)
		case seen[word]:
			v.problem(at, word+" is given twice", "keep one")
		}
		seen[word] = true
	}
}

func (v *validator) mountPath(p, field string) {
	if p == "/" {
		v.problem(field, "the running system is mounted there", "in an initramfs mount the root volume where it hands over, as in /sysroot")
		return
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if below(p, dir) {
			v.problem(field, p+" is the kernel's", "choose another mount point")
			return
		}
	}
	for _, dir := range []string{"/run", "/etc", "/usr", "/bin", "/sbin", "/lib"} {
		if p == dir {
			v.problem(field, "mounting over "+p+" would hide what runs from there", "choose another mount point")
			return
		}
	}
}

// mountOptionProblem judges one word of mount -o.
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
		return name + " would mount something else than the volume", "leave it out"
	case "journal_path", "journal_dev", "logdev", "rtdev", "device":
		return name + " would use a device outside the encrypted volume", "leave it out"
	}
	if strings.HasPrefix(word, "x-") || strings.HasPrefix(word, "X-") {
		return quote(word) + " is for fstab", "leave it out"
	}
	return "", ""
}
