// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"fmt"
	"slices"
	"strings"
)

// Table says what a mapping does: its targets, in order, without holes, from sector 0.
type Table []Target

// String returns dmsetup's notation, one line for each target, as the kernel would echo
// it.
func (t Table) String() string {
	var b strings.Builder
	for i, target := range t {
		if i > 0 {
			b.WriteByte('\n')
		}
		start, length := target.Extent()
		fmt.Fprintf(&b, "%d %d %s", start, length, target.Kind())
		if p := target.Params(); p != "" {
			b.WriteString(" " + p)
		}
	}
	return b.String()
}

// Sectors returns the size of the mapped device in sectors of 512 bytes.
func (t Table) Sectors() uint64 {
	if len(t) == 0 {
		return 0
	}
	start, length := t[len(t)-1].Extent()
	return start + length
}

// maxTargets limits a table; ours have at most a handful of targets.
const maxTargets = 1024

// Validate checks that the table may be loaded: no holes, lengths that suit the sector
// size, ciphers whose data can be read again, keys by reference. The error is an [*Error]
// of the kind [ErrInvalid], [ErrCipher] or [ErrKeySize].
func (t Table) Validate() error {
	if len(t) == 0 || len(t) > maxTargets {
		return invalid(fmt.Errorf("table of %d targets", len(t)))
	}
	var next uint64
	for i, target := range t {
		if target == nil {
			return invalid(fmt.Errorf("target %d is missing", i))
		}
		start, length := target.Extent()
		if start != next {
			return invalid(fmt.Errorf("target %d (%s): starts at sector %d, not where the one before it ends, %d", i, target.Kind(), start, next))
		}
		if length == 0 || length > maxSectors || start > maxSectors-length {
			return invalid(fmt.Errorf("target %d (%s): length of %d sectors", i, target.Kind(), length))
		}
		next = start + length
		if err := target.validate(); err != nil {
			return invalid(fmt.Errorf("target %d (%s): %w", i, target.Kind(), err))
		}
	}
	return nil
}

// Equal reports whether both tables do the same.
func (t Table) Equal(live Table) bool { return len(t.Diff(live)) == 0 }

// Diff describes each difference between a live table and t, the wanted one; nil if they
// are equal. The order of options does not matter.
func (t Table) Diff(live Table) []string {
	if len(t) != len(live) {
		return []string{fmt.Sprintf("%d targets, wanted %d", len(live), len(t))}
	}
	var all []string
	for i := range t {
		for _, d := range t[i].diff(live[i]) {
			if len(t) > 1 {
				d = fmt.Sprintf("target %d: %s", i, d)
			}
			all = append(all, d)
		}
	}
	return all
}

// Devices returns the devices that the table uses, each once, in order of first use.
func (t Table) Devices() []Number {
	var all []Number
	add := func(list ...Number) {
		for _, n := range list {
			if !slices.Contains(all, n) {
				all = append(all, n)
			}
		}
	}
	for _, target := range t {
		switch x := target.(type) {
		case Crypt:
			add(x.Device)
		case Linear:
			add(x.Device)
		case Delay:
			add(x.Device, x.Flush)
		case Flakey:
			add(x.Device)
		}
	}
	return all
}

type differences []string

func (d *differences) add(what string, want, live any) {
	if w, l := fmt.Sprint(want), fmt.Sprint(live); w != l {
		*d = append(*d, fmt.Sprintf("%s is %s, wanted %s", what, l, w))
	}
}

func (d *differences) extent(want, live Target) {
	ws, wl := want.Extent()
	ls, ll := live.Extent()
	d.add("start in sectors", ws, ls)
	d.add("length in sectors", wl, ll)
}

func diffKind(want, live Target) []string {
	return []string{fmt.Sprintf("target is %s, wanted %s", live.Kind(), want.Kind())}
}

func diffPlain(want, live Target) []string {
	if want.Kind() != live.Kind() {
		return diffKind(want, live)
	}
	var d differences
	d.extent(want, live)
	return d
}

func sortedWords(words []string) string {
	s := slices.Sorted(slices.Values(words))
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, " ")
}

// IsCut reports whether the table lets nothing pass, so that every request fails.
func (t Table) IsCut() bool { return len(t) == 1 && t[0].Kind() == (Fail{}).Kind() }

// HasBlackKey reports whether a target has a key that most chips lose in suspend-to-RAM.
// Mainline's protected keys (paes) do not count: they open their blob for each request.
func (t Table) HasBlackKey() bool {
	return slices.ContainsFunc(t, func(target Target) bool {
		c, ok := target.(Crypt)
		return ok && (strings.Contains(string(c.Cipher), "tk(") || strings.Contains(string(c.Cipher), "tk-"))
	})
}
