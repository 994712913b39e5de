// SPDX-License-Identifier: Apache-2.0

package boot

import "strings"

// ParseFstab reads sources and targets out of fstab(5). Lines that it cannot
// read are left to those whose file it is.
func ParseFstab(text string) []FstabEntry {
	var entries []FstabEntry
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		entries = append(entries, FstabEntry{Source: unescapeOctal(fields[0]), Target: unescapeOctal(fields[1])})
	}
	return entries
}

// unescapeOctal undoes \040 for a space and the like.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return '0' <= c && c <= '7' }
