// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// maxLinks is how many symbolic links the kernel follows in one path.
const maxLinks = 40

// Canonical follows the symbolic links in an absolute path of the system at root, as
// systemd-fstab-generator does: what does not exist yet is kept as it is. A path whose
// links lead nowhere, in a circle, comes back as it was given.
func Canonical(root, p string) string {
	if to, ok := follow(root, p); ok {
		return to
	}
	return p
}

// follow is Canonical that reports links in a circle.
func follow(root, p string) (to string, ok bool) {
	done, rest := "/", strings.Split(path.Clean(p), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next := path.Join(done, name) // "" stays, ".." goes up and not beyond /
		to, err := os.Readlink(filepath.Join(root, next))
		if err != nil {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", false
		}
		if path.IsAbs(to) {
			done = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return done, true
}
