// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"path"
	"strings"

	"imxcrypt/configs"
)

// MountProblem is a mount point that symbolic links make unusable.
type MountProblem struct{ Volume, Text, Remedy string }

// MountProblems follows the symbolic links of the mount points in the system at root,
// which the configuration does not know, and returns what cannot work there.
func MountProblems(c *configs.Config, root string) []MountProblem {
	var found []MountProblem
	for i := range c.Volumes {
		v := &c.Volumes[i]
		if v.Mount.Path == "" {
			continue
		}
		report := func(remedy, format string, a ...any) {
			found = append(found, MountProblem{v.Name, fmt.Sprintf("mount point %s ", v.Mount.Path) + fmt.Sprintf(format, a...), remedy})
		}
		to, ok := follow(root, v.Mount.Path)
		if !ok {
			report("remove one of the links, or choose another mount point", "cannot be reached: its symbolic links lead in a circle")
			continue
		}
		if to != path.Clean(v.Mount.Path) {
			if reason, remedy := configs.MountPointProblem(to); reason != "" {
				report(remedy, "leads to %s: %s", to, reason)
			}
		}
		for j := range c.Volumes {
			other := &c.Volumes[j]
			if j == i || other.Mount.Path == "" {
				continue
			}
			under, ok := follow(root, other.Mount.Path)
			switch {
			case !ok:
			case to == under && j < i:
				report("mount each volume at a place of its own", "and that of volume %s, %s, are the same folder, %s", other.Name, other.Mount.Path, to)
			case strings.HasPrefix(to, strings.TrimSuffix(under, "/")+"/") && c.Need(v, other) == "":
				report("write "+to+" in the configuration, by which the volumes are put in order", "leads to %s, in the mount of volume %s, which may be mounted over it", to, other.Name)
			}
		}
	}
	return found
}
