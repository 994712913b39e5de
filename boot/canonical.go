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

// Canonical resolves the symbolic links in an absolute path of the system at root, as
// systemd-fstab-generator does: components that do not exist yet are kept. If the links
// form a loop, it returns the path unchanged.
func Canonical(root, p string) string {
	if to, ok := follow(root, p); ok {
		return to
	}
	return p
}

// follow is Canonical, but reports a loop of links.
func follow(root, p string) (to string, ok bool) {
	done, rest := "/", strings.Split(path.Clean(p), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next := path.Join(done, name) // "" stays in done, ".." goes up, but not above /
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
