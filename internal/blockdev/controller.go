// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"imxcrypt/internal/plainfile"
)

// EMMC is the controller of [CutController] that every eMMC hangs on.
const EMMC = "eMMC"

var (
	// The names of a device of the SoC in the device tree (mmc@30b60000), and in sysfs
	// (30b60000.mmc).
	treeName  = regexp.MustCompile(`^([a-z][a-z0-9,._-]*)@([0-9a-f]+)$`)
	sysfsName = regexp.MustCompile(`^[0-9a-f]+\.[a-z][a-z0-9,._-]*$`)
)

// CutController splits a specification like "eMMC:PARTLABEL=data" into the controller
// that the device must hang on and the rest: whatever else has the property, as a card
// that somebody puts in, is not looked at. The controller is empty where there is none.
func CutController(spec string) (controller, rest string) {
	before, after, ok := strings.Cut(spec, ":")
	if ok && (before == EMMC || treeName.MatchString(before) || sysfsName.MatchString(before)) {
		return before, after
	}
	return "", spec
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
	if m := treeName.FindStringSubmatch(controller); m != nil {
		controller = m[2] + "." + m[1]
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
