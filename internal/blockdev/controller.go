// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"path/filepath"
	"slices"
	"strings"

	"imxcrypt/internal/plainfile"
)

// EMMC is the controller of [CutController] that every eMMC hangs on.
const EMMC = "eMMC"

// CutController splits a specification like "eMMC:PARTLABEL=data" into the controller
// that the device must hang on and the rest: whatever else has the property, as a card
// that somebody puts in, is not looked at. The controller is empty where there is none.
func CutController(spec string) (controller, rest string) {
	before, after, ok := strings.Cut(spec, ":")
	if _, inTree := fromTree(before); ok && (before == EMMC || inTree || inSysfs(before)) {
		return before, after
	}
	return "", spec
}

// fromTree turns the name of a device of the SoC in the device tree (mmc@30b60000) into
// that in sysfs (30b60000.mmc).
func fromTree(name string) (string, bool) {
	kind, address, ok := strings.Cut(name, "@")
	return address + "." + kind, ok && isKind(kind) && isAddress(address)
}

// inSysfs reports whether a name is one of a device of the SoC in sysfs.
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

// madeOf reports whether a text has some of these characters, and no others. Patterns
// would have to be compiled at each start of the program.
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

// hangsOn reports whether a device hangs on a controller.
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

// cardType is "MMC" for an eMMC, "SD" for an SD card; empty for what is neither.
func (f *finder) cardType(n node) string {
	kind, err := plainfile.Attribute(f.block(f.disk(n.name), "device/type"))
	if err != nil || !strings.HasPrefix(n.name, "mmcblk") {
		return ""
	}
	return kind
}
