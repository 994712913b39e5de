// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"path"
	"strings"
)

// escape escapes any text for use in a unit's name: "/" becomes "-", and a leading dot
// and anything but letters, digits and ":_." become \xNN (systemd.unit(5), "String
// Escaping for Inclusion in Unit Names").
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '/':
			b.WriteByte('-')
		case c == '.' && i == 0, !plain(c):
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == ':' || c == '_' || c == '.'
}

// EscapePath is `systemd-escape --path`: it returns the name, without a suffix, of the
// unit for a path.
func EscapePath(p string) string {
	p = strings.Trim(path.Clean(p), "/")
	if p == "" || p == "." {
		return "-"
	}
	return escape(p)
}

// udevEncode encodes a label as udev does in the name of a link below /dev/disk:
// characters that are not in its list of harmless ones become \xNN (systemd,
// encode_devnode_name); valid UTF-8 is kept.
func udevEncode(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 0x80 || r != '\\' && (plain(byte(r)) || strings.ContainsRune("#+-=@", r)) {
			b.WriteRune(r)
			continue
		}
		fmt.Fprintf(&b, `\x%02x`, byte(r))
	}
	return b.String()
}

// quoteSpecifiers keeps systemd from reading % as the start of a specifier.
func quoteSpecifiers(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// quoteWord quotes one word of a setting that takes several.
func quoteWord(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(s) + `"`
}

// quoteArgument quotes one argument of a command line in a unit: in double quotes, with
// backslashes, quotes, $ and % escaped.
func quoteArgument(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `$$`, `%`, `%%`).Replace(s)
	return `"` + s + `"`
}
