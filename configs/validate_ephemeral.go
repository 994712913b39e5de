// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strings"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/mkfs"
)

// ephemeral checks a volume with a throw-away key. It is formatted at each unlock, so
// there must be no doubt which device it is.
func (v *validator) ephemeral(vol *Volume, at string) {
	field := join(at, "key")
	if v.spoilt(field) || !v.word(field, string(vol.Key), string(KeyStored), string(KeyEphemeral)) {
		return
	}
	typ := join(join(at, "filesystem"), "type")
	if !vol.Ephemeral() {
		if vol.Filesystem.Type == FilesystemSwap && !v.spoilt(typ) {
			v.problem(typ, "swap is for volumes whose key is thrown away", "write key: ephemeral, or filesystem: none and what uses /dev/mapper/"+v.config.MappingName(vol.Name)+" in fstab")
		}
		return
	}
	if t := vol.Filesystem.Type; t != FilesystemSwap && !mkfs.Known(t) && !v.spoilt(typ) {
		v.problem(typ, "with key: ephemeral the volume is formatted whenever it is unlocked, and "+t+" is not made", "write swap, ext4, xfs, btrfs, f2fs or vfat")
	}
	switch device := join(at, "device"); {
	case !v.has(device) || v.spoilt(device):
	case vol.InFile() && vol.Filesystem.Type == FilesystemSwap:
		v.problem(device, "swapping to a file through a loop device can wait for the memory that it is to free", "give swap a partition")
	case !certain(vol):
		v.problem(device, quote(vol.Device)+uncertain+", and with key: ephemeral it is formatted at each", certainRemedy)
	}
	const none = "has no meaning with key: ephemeral: there is no header"
	if vol.Detached() && !v.spoilt(join(at, "header")) {
		v.problem(join(at, "header"), none, "leave it out")
	}
	if vol.UUID != "" {
		v.problem(join(at, "uuid"), none, "leave it out")
	}
	switch {
	case vol.Filesystem.UUID != "":
		v.problem(join(join(at, "filesystem"), "uuid"), "has no meaning with key: ephemeral", "leave it out")
	case vol.Grow:
		v.problem(join(at, "grow"), "with key: ephemeral the volume always takes what it has", "leave it out")
	case vol.Wrap == WrapECB:
		v.problem(join(at, "wrap"), "with key: ephemeral a stale key must not go unseen", "write ccm")
	}
}

// lasting refuses to have what must last in the mount of a volume that is formatted at
// each unlock. The image of another such volume must last too, because it has the mark
// made by provisioning.
func (v *validator) lasting() {
	refuse := func(field, path string) {
		deepest := -1
		for i := range v.config.Volumes {
			p := v.config.Volumes[i].Mount.Path
			if p != "" && below(path, p) && !v.spoilt(mountPath(i)) && (deepest < 0 || len(p) > len(v.config.Volumes[deepest].Mount.Path)) {
				deepest = i
			}
		}
		if deepest < 0 || !v.config.Volumes[deepest].Ephemeral() || v.spoilt(field) {
			return
		}
		at := v.place(field)
		if !v.has(field) { // the default of state_dir
			at = v.place(mountPath(deepest))
		}
		v.add(at, field, quote(path)+" lies in the mount of "+quote(v.config.Volumes[deepest].Name)+", which is empty after each unlocking (key: ephemeral)", "choose a place that lasts")
	}
	refuse("state_dir", v.config.StateDir)
	for i := range v.config.Volumes {
		vol, at := &v.config.Volumes[i], item("volumes", i)
		if vol.InFile() {
			refuse(join(at, "device"), vol.Device)
		}
		if vol.Detached() {
			refuse(join(at, "header"), vol.Header)
		}
	}
}

func mountPath(volume int) string { return join(join(item("volumes", volume), "mount"), "path") }

const (
	uncertain     = " may name another device at another boot"
	certainRemedy = "write PARTUUID= or PARTLABEL= with a value, eMMC: in front of it, or a path in /dev/disk/by-path"
)

// certain reports whether a device is the same at each boot, whatever disks there are and
// in whatever order they are found.
func certain(vol *Volume) bool {
	controller, rest := blockdev.CutController(vol.Device)
	for _, prefix := range []string{"PARTLABEL=", "PARTUUID=", "/dev/disk/by-path/", "/dev/disk/by-partuuid/", "/dev/disk/by-partlabel/"} {
		if strings.HasPrefix(rest, prefix) {
			return true
		}
	}
	return vol.InFile() || controller != "" && onController(rest)
}
