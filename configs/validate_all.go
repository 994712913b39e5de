// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"strings"
)

// distinct refuses what two volumes cannot share.
func (v *validator) distinct() {
	seen := map[string]int{}
	claim := func(i int, kind, value, field, what, remedy string) {
		if value == "" || v.spoilt(field) {
			return
		}
		if first, taken := seen[kind+value]; taken {
			at := item("volumes", first)
			v.problem(field, fmt.Sprintf("%s is that of %s (line %d) too", what, at, v.place(at).line), remedy)
			return
		}
		seen[kind+value] = i
	}
	for i := range v.config.Volumes {
		vol, at := &v.config.Volumes[i], item("volumes", i)
		claim(i, "name:", vol.Name, join(at, "name"), "the name "+quote(vol.Name), "give each volume a name of its own")
		claim(i, "device:", sameDevice(vol.Device), join(at, "device"), "the device "+quote(vol.Device), "give each volume a device of its own")
		claim(i, "uuid:", vol.UUID, join(at, "uuid"), "the UUID "+quote(vol.UUID), "no two headers have the same; pin each to its own, or leave it out")
		claim(i, "mount:", vol.Mount.Path, join(join(at, "mount"), "path"), "the mount point "+quote(vol.Mount.Path), "mount each volume at a place of its own")
		if vol.Detached() {
			claim(i, "header:", vol.Header, join(at, "header"), "the header "+quote(vol.Header), "give each volume a file of its own")
		}
	}
}

// need says that a volume cannot be opened before another one: by which field,
// and in which words.
type need struct {
	volume int
	field  string
	why    string
}

// cycles refuses volumes that wait for each other, or for themselves.
func (v *validator) cycles() {
	const (
		unseen = iota
		open
		done
	)
	state := make([]int, len(v.config.Volumes))
	var visit func(i int)
	visit = func(i int) {
		state[i] = open
		for _, n := range v.needs(i) {
			switch {
			case n.volume == i:
				v.problem(n.field, n.why+", which is this volume itself", "name another")
			case state[n.volume] == open:
				v.problem(n.field, n.why+", which cannot be opened before this one", "break the circle")
			case state[n.volume] == unseen:
				visit(n.volume)
			}
		}
		state[i] = done
	}
	for i := range state {
		if state[i] == unseen {
			visit(i)
		}
	}
}

// needs lists what must be there before volume i: the mapping that is its
// device, the mount that its header lies in, the mount that its mount point
// lies in, and for a key in a file the mount that state_dir lies in.
func (v *validator) needs(i int) []need {
	c := v.config
	vol, at := &c.Volumes[i], item("volumes", i)
	var list []need
	if name, ok := strings.CutPrefix(vol.Device, "/dev/mapper/"+c.MappingPrefix); ok {
		for j := range c.Volumes {
			if c.Volumes[j].Name == name {
				list = append(list, need{j, join(at, "device"), quote(vol.Device) + " is the mapping of " + quote(name)})
			}
		}
	}
	inMount := func(p, field string, self bool) {
		j := c.mountAbove(p, i, self)
		if j >= 0 {
			list = append(list, need{j, field, quote(p) + " lies in the mount of " + quote(c.Volumes[j].Name)})
		}
	}
	if vol.Detached() {
		inMount(vol.Header, join(at, "header"), false) // its own mount was refused already
	}
	if vol.Mount.Path != "" {
		inMount(vol.Mount.Path, join(join(at, "mount"), "path"), false)
	}
	if vol.Source == SourceDev {
		inMount(c.StateDir, "state_dir", true)
	}
	return list
}

// mountAbove is the index of the volume whose mount point is the nearest above
// the path, or -1.
func (c *Config) mountAbove(p string, except int, self bool) int {
	best := -1
	for j := range c.Volumes {
		m := c.Volumes[j].Mount.Path
		if m == "" || j == except && !self || !below(p, m) {
			continue
		}
		if best < 0 || len(m) > len(c.Volumes[best].Mount.Path) {
			best = j
		}
	}
	return best
}
