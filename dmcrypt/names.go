// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Lengths of names and UUIDs in bytes, without the NUL (linux/dm-ioctl.h).
const (
	MaxName = unix.DM_NAME_LEN - 1
	MaxUUID = unix.DM_UUID_LEN - 1
)

// Prefixes of the UUIDs of our mappings: cryptsetup's own for LUKS2 volumes, and the one
// that it gives to helpers, which it closes together with them.
const (
	UUIDPrefixVolume = "CRYPT-LUKS2-"
	UUIDPrefixHelper = "CRYPT-SUBDEV-"
)

// VolumeUUID returns the device-mapper UUID of a volume's mapping, from the UUID in its
// header, with or without dashes, and the mapping's name.
func VolumeUUID(uuid, name string) string {
	return UUIDPrefixVolume + strings.ReplaceAll(uuid, "-", "") + "-" + name
}

// HelperUUID returns the device-mapper UUID of an inner mapping of a volume.
func HelperUUID(uuid, name string) string {
	return UUIDPrefixHelper + strings.ReplaceAll(uuid, "-", "") + "-" + name
}

// ValidateName checks that a mapping may have the name. The library would silently
// truncate names longer than MaxName. libdevmapper and udev's rules write other
// characters as \xNN into /dev/mapper, where no one would look for them.
func ValidateName(name string) error {
	switch {
	case name == "":
		return invalid(fmt.Errorf("mapping name is empty"))
	case len(name) > MaxName:
		return invalid(fmt.Errorf("mapping name %q has %d bytes, at most %d are possible", clip(name), len(name), MaxName))
	case name == "." || name == ".." || name == unix.DM_CONTROL_NODE:
		return invalid(fmt.Errorf("mapping name %q is reserved", name))
	}
	if i := unmangled(name); i >= 0 {
		return invalid(fmt.Errorf("mapping name %q: character %q is not possible", name, name[i:i+1]))
	}
	return nil
}

// ValidateUUID checks that a mapping may have the UUID, which may be empty.
func ValidateUUID(uuid string) error {
	if len(uuid) > MaxUUID {
		return invalid(fmt.Errorf("mapping uuid %q has %d bytes, at most %d are possible", clip(uuid), len(uuid), MaxUUID))
	}
	if i := unmangled(uuid); i >= 0 {
		return invalid(fmt.Errorf("mapping uuid %q: character %q is not possible", uuid, uuid[i:i+1]))
	}
	return nil
}

// unmangled returns the index of the first character that libdevmapper would mangle
// (DM_UDEV's whitelist, without the slash), or -1.
func unmangled(s string) int {
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte("#+-.:=@_", c) >= 0 {
			continue
		}
		return i
	}
	return -1
}
