// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"path"
	"strings"
)

// escape makes any text part of a unit's name: "/" becomes "-", and what is
// neither letter nor digit nor one of ":_." becomes \xNN, a leading dot too
// (systemd.unit(5), "String Escaping for Inclusion in Unit Names").
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

// EscapePath is `systemd-escape --path`: the name, without a suffix, of the unit
// that stands for a path.
func EscapePath(p string) string {
	p = strings.Trim(path.Clean(p), "/")
	if p == "" || p == "." {
		return "-"
	}
	return escape(p)
}

// udevEncode is how udev writes a label into the name of a link below /dev/disk:
// what is not in its list of harmless characters becomes \xNN (systemd,
// encode_devnode_name; valid UTF-8 stays).
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

// quoteSpecifiers keeps systemd from reading % as the beginning of a specifier.
func quoteSpecifiers(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// quoteWord writes one word of a setting that takes several.
func quoteWord(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(s) + `"`
}

// quoteArgument writes one argument of a command line in a unit: in double
// quotes, with backslashes, quotes, $ and % kept from meaning anything.
func quoteArgument(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `$$`, `%`, `%%`).Replace(s)
	return `"` + s + `"`
}
