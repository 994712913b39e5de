// SPDX-License-Identifier: Apache-2.0

package configs

import "fmt"

// distinct refuses what two volumes cannot share.
func (v *validator) distinct() {
	seen := map[string]int{}
	claim := func(i int, kind, value, field, what, remedy string) {
		if value == "" || v.spoilt(field) {
			return
		}
		if first, taken := seen[kind+value]; taken {
			at := item("volumes", first)
			v.problem(field, fmt.Sprintf("%s is also that of %s (%s)", what, v.shown(at), v.seenFrom(field, at)), remedy)
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

// seenFrom names a field's position as seen from another: its line, and its file
// if that is a different one.
func (v *validator) seenFrom(field, other string) string {
	at := v.place(other)
	if at.file == v.place(field).file {
		return fmt.Sprintf("line %d", at.line)
	}
	return at.String()
}

// need is why a volume cannot be opened before another: the field, and the reason as
// text.
type need struct {
	volume int
	field  string
	why    string
}

// cycles refuses volumes that depend on each other, or on themselves.
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

// needs lists what volume i depends on.
func (v *validator) needs(i int) []need {
	c := v.config
	vol, at := &c.Volumes[i], item("volumes", i)
	var list []need
	for j := range c.Volumes {
		other := &c.Volumes[j]
		field := c.Need(vol, other)
		inMount := func(path string) string { return quote(path) + " lies in the mount of " + quote(other.Name) }
		switch field {
		case NeedsDevice:
			reason := quote(vol.Device) + " is the mapping of " + quote(other.Name)
			if vol.Device != "/dev/mapper/"+c.MappingName(other.Name) {
				reason = inMount(vol.Device)
			}
			list = append(list, need{j, join(at, field), reason})
		case NeedsMountPoint:
			list = append(list, need{j, join(at, field), inMount(vol.Mount.Path)})
		case NeedsHeader:
			list = append(list, need{j, join(at, field), inMount(vol.Header)})
		case NeedsKey:
			list = append(list, need{j, field, inMount(c.StateDir)})
		case NeedsRecord:
			list = append(list, need{j, join(at, field), "state_dir " + inMount(c.StateDir)})
		}
	}
	return list
}
