// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"path/filepath"
	"slices"
	"strings"

	"imxcrypt/internal/plainfile"
)

// EMMC is the controller that stands for any eMMC in [CutController].
const EMMC = "eMMC"

// CutController splits a specification like "eMMC:PARTLABEL=data" into the controller
// that the device must be attached to and the rest. Other devices with the same property,
// such as a card that someone inserts, are not considered. The controller is empty if
// there is none.
func CutController(spec string) (controller, rest string) {
	before, after, ok := strings.Cut(spec, ":")
	if _, inTree := fromTree(before); ok && (before == EMMC || inTree || inSysfs(before)) {
		return before, after
	}
	return "", spec
}

// fromTree converts the name of an SoC device in the device tree (mmc@30b60000) into its
// name in sysfs (30b60000.mmc).
func fromTree(name string) (string, bool) {
	kind, address, ok := strings.Cut(name, "@")
	return address + "." + kind, ok && isKind(kind) && isAddress(address)
}

// inSysfs reports whether name is the name of an SoC device in sysfs.
func inSysfs(name string) bool {
	address, kind, ok := strings.Cut(name, ".")
	return ok && isKind(kind) && isAddress(address)
}

func isKind(s string) bool {
	return madeOf(s, letters+digits+",._-") && madeOf(s[:1], letters)
}

func isAddress(s string) bool { return madeOf(s, digits+"abcdef") }

const (
	letters = "abcdefghijklmnopqrstuvwxyz"
	digits  = "0123456789"
)

// madeOf reports whether text is not empty and has only these characters. A regular
// expression would have to be compiled at each start of the program.
func madeOf(text, characters string) bool {
	return text != "" && strings.Trim(text, characters) == ""
}

// ByContent reports whether a specification finds a device by the filesystem on it.
func ByContent(spec string) bool {
	_, spec = CutController(spec)
	for _, by := range []string{"UUID=", "LABEL=", "/dev/disk/by-uuid/", "/dev/disk/by-label/"} {
		if strings.HasPrefix(spec, by) {
			return true
		}
	}
	return false
}

// hangsOn reports whether a device is attached to a controller.
func (f *finder) hangsOn(n node, controller string) bool {
	if controller == EMMC {
		return f.cardType(n) == "MMC"
	}
	if name, ok := fromTree(controller); ok {
		controller = name
	}
	dir, err := filepath.EvalSymlinks(f.block(n.name))
	return err == nil && slices.Contains(strings.Split(dir, "/"), controller)
}

// cardType returns "MMC" for an eMMC, "SD" for an SD card, and an empty string for
// neither.
func (f *finder) cardType(n node) string {
	kind, err := plainfile.Attribute(f.block(f.disk(n.name), "device/type"))
	if err != nil || !strings.HasPrefix(n.name, "mmcblk") {
		return ""
	}
	return kind
}
