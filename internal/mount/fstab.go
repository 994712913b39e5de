// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"imxcrypt/internal/plainfile"
)

// FstabEntry is the part of a line of fstab(5) that matters here.
type FstabEntry struct{ Source, Target string }

// ParseFstab reads sources and targets from fstab(5). It skips lines that it cannot read:
// they are up to the owner of the file.
func ParseFstab(text string) []FstabEntry {
	var entries []FstabEntry
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		entries = append(entries, FstabEntry{Source: unescape(fields[0]), Target: unescape(fields[1])})
	}
	return entries
}

// InFstab returns the deepest mount point in /etc/fstab, except the root, that a file is
// in or would be made in; it is empty if there is none. noauto does not count: systemd
// also mounts such a line for a unit with RequiresMountsFor=.
func (System) InFstab(file string) (target string, err error) { return inFstab("/etc/fstab", file) }

func inFstab(fstab, file string) (target string, err error) {
	text, err := plainfile.Read(fstab)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(file))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // no file can be made there
	}
	if err != nil {
		return "", err
	}
	for _, e := range ParseFstab(string(text)) {
		if !filepath.IsAbs(e.Target) {
			continue // swap
		}
		// A target that does not exist has no folder in it.
		at, err := filepath.EvalSymlinks(e.Target)
		if err == nil && at != "/" && inside(dir, at) && len(at) > len(target) {
			target = at
		}
	}
	return target, nil
}
