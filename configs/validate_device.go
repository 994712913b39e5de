// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"

	"imxcrypt/internal/blockdev"
)

// maxPartLabel is the length of a GPT partition's name, in UTF-16 units.
const maxPartLabel = 36

// device checks the syntax of a volume's device.
func (v *validator) device(spec, field string) {
	const remedy = "write a path as in /dev/mmcblk2p3, or PARTLABEL=, PARTUUID=, LABEL= or UUID= with a value"
	if !v.has(field) {
		v.problem(field, "is missing", remedy)
		return
	}
	whole := spec
	controller, spec := blockdev.CutController(spec)
	if controller != "" && onController(spec) {
		return
	}
	tag, value, tagged := strings.Cut(spec, "=")
	switch before, _, cut := strings.Cut(tag, ":"); {
	case controller != "" && strings.HasPrefix(spec, "/"):
		v.problem(field, "a path is not looked for on a controller", "write "+spec+", or "+controller+": with PARTLABEL= or part3 behind it")
		return
	case controller == "" && cut && !strings.HasPrefix(spec, "/"):
		remedy := "write eMMC:, or the controller's name as in mmc@30b60000: (ls /sys/bus/platform/devices)"
		if strings.EqualFold(before, blockdev.EMMC) {
			remedy = "did you mean " + blockdev.EMMC + ":?"
		}
		v.problem(field, quote(before)+" is not a controller", remedy)
		return
	}
	if strings.HasPrefix(spec, "/") || !tagged {
		if spec != "" && !strings.HasPrefix(spec, "/") {
			v.problem(field, quote(whole)+" is neither a path nor a label", remedy)
			return
		}
		if spec == "" {
			v.problem(field, "is empty", remedy)
		} else if v.absolute(field, spec) && (spec == "/" || spec == "/dev") {
			v.problem(field, spec+" is a directory", remedy)
		}
		return
	}
	tags := []string{"PARTLABEL", "PARTUUID", "LABEL", "UUID"}
	reason := ""
	switch tag {
	case "PARTLABEL":
		if len(utf16.Encode([]rune(value))) > maxPartLabel {
			reason = "has more than the 36 characters of a partition's name"
		}
	case "LABEL":
		if len(value) > 255 {
			reason = "is longer than any filesystem's label"
		}
	case "PARTUUID":
		if !isPartUUID(value) {
			reason = "is neither a GPT partition's UUID nor an MBR one's, as in 1234abcd-03"
		}
	case "UUID":
		if strings.Trim(value, "0123456789abcdefABCDEF-") != "" {
			reason = "is not a UUID"
		}
	default:
		remedy := "write " + oneOf(tags) + ", with = behind it"
		if near := nearest(tag, tags); near != "" {
			remedy = "did you mean " + near + "=?"
		}
		v.problem(field, quote(spec)+" begins with an unknown word", remedy)
		return
	}
	switch {
	case value == "":
		v.problem(field, tag+"= lacks its value", remedy)
	case strings.Trim(value, `"'`) != value:
		v.problem(field, "there are quotes inside "+quote(spec), "write "+tag+"="+strings.Trim(value, `"'`))
	case strings.ContainsFunc(value, unicode.IsControl):
		v.problem(field, quote(spec)+" holds a control character", remedy)
	case reason != "":
		v.problem(field, quote(spec)+" "+reason, remedy)
	}
}

// size checks the size of an image that provisioning makes.
func (v *validator) size(vol *Volume, field string) {
	least := 2 * int64(mib)
	if !vol.Detached() {
		least += vol.HeaderSize + vol.Gap
	}
	switch {
	case vol.Size == 0 || v.spoilt(field) || v.spoilt(parent(field)+".device"):
	case !vol.InFile():
		v.problem(field, "is for a volume in a file, and "+quote(vol.Device)+" is a device", "leave it out")
	case vol.Size%grain != 0:
		v.problem(field, formatSize(vol.Size)+" is not a multiple of "+formatSize(grain), "write "+formatSize((vol.Size+grain-1)/grain*grain))
	case vol.Size < least:
		v.problem(field, formatSize(vol.Size)+" has no room for header, gap and data", "write "+formatSize(least)+" or more")
	}
}

// onController reports whether spec is a partition by its number, such as part3.
func onController(spec string) bool {
	number, ok := strings.CutPrefix(spec, "part")
	n, err := strconv.Atoi(number)
	return ok && err == nil && n > 0 && strconv.Itoa(n) == number
}

// isPartUUID reports whether s is the UUID of a GPT partition, or an MBR partition's disk
// identifier and number.
func isPartUUID(s string) bool {
	if isUUID(strings.ToLower(s)) {
		return true
	}
	return len(s) == 11 && s[8] == '-' && strings.Trim(s[:8]+s[9:], "0123456789abcdefABCDEF") == ""
}

// isUUID reports whether s has the form used in headers: 36 characters, lower case.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if !strings.Contains("0123456789abcdef", s[i:i+1]) {
				return false
			}
		}
	}
	return s != "00000000-0000-0000-0000-000000000000"
}

func uuidRemedy(s string) string {
	if low := strings.ToLower(s); isUUID(low) {
		return "write " + low
	}
	return "write it as imxcrypt status prints it, or leave it out"
}

// sameDevice normalises a device specification, so that two that certainly mean the same
// device become equal.
func sameDevice(spec string) string {
	controller, rest := blockdev.CutController(spec)
	if strings.HasPrefix(rest, "UUID=") || strings.HasPrefix(rest, "PARTUUID=") {
		return controller + strings.ToLower(rest)
	}
	return spec
}
