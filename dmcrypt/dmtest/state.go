// SPDX-License-Identifier: Apache-2.0

package dmtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

func (k *Kernel) sorted() []*mapping {
	var all []*mapping
	for _, name := range slices.Sorted(maps.Keys(k.mappings)) {
		all = append(all, k.mappings[name])
	}
	return all
}

// State returns everything there is, as text to compare with: for each mapping the line
// of `dmsetup info -c --noheadings -o name,major,minor,attr,open,uuid` and the lines of
// `dmsetup table`, then the links in /dev/mapper. The attributes are L for a live table,
// I for an inactive one, s for suspended, r or w for the access mode. It is empty if
// there are no mappings.
func (k *Kernel) State() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for _, m := range k.sorted() {
		fmt.Fprintf(&b, "%s:%d:%d:%s:%d:%s\n", m.name, k.o.Major, m.minor, m.attributes(), m.opens, m.uuid)
		if m.live == nil {
			continue
		}
		for line := range strings.Lines(m.live.text.String()) {
			fmt.Fprintf(&b, "%s: %s\n", m.name, strings.TrimSuffix(line, "\n"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k.nodes)) {
		fmt.Fprintf(&b, "/dev/mapper/%s -> ../dm-%d\n", name, k.nodes[name])
	}
	return b.String()
}

func (m *mapping) attributes() string {
	a := []byte("---w")
	if m.live != nil {
		a[0] = 'L'
	}
	if m.inactive != nil {
		a[1] = 'I'
	}
	if m.suspended {
		a[2] = 's'
	}
	if m.liveRO {
		a[3] = 'r'
	}
	return string(a)
}
