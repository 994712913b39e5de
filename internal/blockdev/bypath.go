// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// byPath returns the name that udev gives an eMMC, an SD card, or a partition of one
// below /dev/disk/by-path, such as "platform-30b60000.mmc-part3". It names the controller
// that the device is attached to, so no other device can take it. It is empty for devices
// on other buses, whose names are built differently.
func (f *finder) byPath(n node) string {
	disk, suffix := n.name, ""
	if n.partition > 0 {
		disk, suffix = f.disk(n.name), "-part"+strconv.Itoa(n.partition)
	}
	number, isMMC := strings.CutPrefix(n.name, "mmcblk")
	if number, boot, ok := strings.Cut(number, "boot"); isMMC && ok && madeOf(number, digits) && madeOf(boot, digits) {
		suffix = "-boot" + boot
	} else if number, ok := strings.CutPrefix(disk, "mmcblk"); !ok || !madeOf(number, digits) {
		return ""
	}
	dir, err := filepath.EvalSymlinks(f.block(disk))
	if err != nil {
		return ""
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		link, err := os.Readlink(filepath.Join(dir, "subsystem"))
		if err != nil {
			continue // a folder between two devices
		}
		switch filepath.Base(link) {
		case "block", "mmc", "mmc_host":
		case "platform":
			return "platform-" + filepath.Base(dir) + suffix
		default:
			return ""
		}
	}
	return ""
}
