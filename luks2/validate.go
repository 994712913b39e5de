// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"math"
	"sort"
	"strconv"
)

// maxKeyslotsSize is cryptsetup's limit for the keyslots area in bytes.
const maxKeyslotsSize = 128 << 20

// place says where a header is and where its data is.
type place struct {
	// size of what holds the header, in bytes.
	size int64
	kind placeKind
	// data is the size in bytes of what holds the data; negative if unknown.
	data int64
}

type placeKind uint8

const (
	// attached means that header and data are on one device, so no segment may touch the
	// header. A header there that claims "detached" would get itself encrypted and
	// overwritten.
	attached placeKind = iota
	detached
	anywhere
	// foreign is anywhere, and no stricter than cryptsetup.
	foreign
)

// interval is a range of bytes, end exclusive.
type interval struct {
	path       string
	start, end int64
}

// firstOverlap finds two intervals that share a byte. It sorts the list.
func firstOverlap(list []interval) (a, b interval, found bool) {
	sort.Slice(list, func(i, j int) bool { return list[i].start < list[j].start })
	for i := 1; i < len(list); i++ {
		if list[i].start < list[i-1].end {
			return list[i-1], list[i], true
		}
	}
	return
}

// validate checks what involves more than one section.
func (d *decoder) validate() error {
	if a, b, found := firstOverlap(d.areas); found {
		return invalid(RuleAreaOverlap, "%s (%d to %d) and %s (%d to %d)", a.path, a.start, a.end, b.path, b.start, b.end)
	}
	if area := d.headerArea(); area > d.at.size {
		return invalid(RuleDeviceSize, "header and keyslots area take %d bytes, the device has %d", area, d.at.size)
	}
	if err := d.validateSegments(); err != nil {
		return err
	}
	if err := d.validateSegmentDigests(); err != nil {
		return err
	}
	if err := d.validateKeyslotDigests(); err != nil {
		return err
	}
	return d.validateReencryption()
}

func (d *decoder) validateSegments() error {
	segments := d.md.Segments
	if len(segments) == 0 {
		return invalid(RuleSegments, "there is no segment")
	}
	var regular []interval
	backup := false
	for i := range len(segments) {
		id := strconv.Itoa(i)
		s, ok := segments[id]
		if !ok {
			return invalid(RuleSegments, "segment %s is missing, %d are numbered beyond", id, len(segments)-i)
		}
		if s.Backup() {
			backup = true
			continue
		}
		if backup {
			return invalid(RuleSegments, "segment %s comes behind a backup segment", id)
		}
		regular = append(regular, interval{"segment " + id, s.Offset, s.End(math.MaxInt64)})
	}
	if len(regular) == 0 {
		return invalid(RuleSegments, "there are only backup segments")
	}
	for i := range regular[:len(regular)-1] {
		if segments[strconv.Itoa(i)].Size == SizeDynamic {
			return invalid(RuleSegmentDynamic, "%s has a dynamic size and is not the last", regular[i].path)
		}
	}
	if a, b, found := firstOverlap(regular); found {
		return invalid(RuleSegmentOverlap, "%s (%d to %d) and %s (%d to %d)", a.path, a.start, a.end, b.path, b.start, b.end)
	}
	// From here on regular is in the order of the device.
	first, last := regular[0], regular[len(regular)-1]
	if first.start < d.headerArea() && (first.start > 0 || d.at.kind == attached) {
		return invalid(RuleSegmentInHeader, "%s begins at %d, the header takes %d bytes", first.path, first.start, d.headerArea())
	}
	if d.at.data < 0 {
		return nil
	}
	return checkBounds(last, d.at.data)
}

// checkBounds checks that the last segment on the device begins and ends inside it.
func checkBounds(last interval, data int64) error {
	if last.end == math.MaxInt64 {
		if last.start >= data {
			return invalid(RuleSegmentBounds, "%s begins at %d, the device has %d bytes", last.path, last.start, data)
		}
		return nil
	}
	if last.end > data {
		return invalid(RuleSegmentBounds, "%s ends at %d, the device has %d bytes", last.path, last.end, data)
	}
	return nil
}

// validateSegmentDigests refuses a crypt segment without a digest, as cryptsetup does,
// backups included.
func (d *decoder) validateSegmentDigests() error {
	has := map[string]bool{}
	for _, g := range d.md.Digests {
		for _, id := range g.Segments {
			has[id] = true
		}
	}
	for _, id := range d.md.SegmentIDs() {
		if d.md.Segments[id].Type == SegmentCrypt && !has[id] {
			return invalid(RuleSegmentDigest, "crypt segment %s has no digest", id)
		}
	}
	return nil
}

func checkKeyslotsSize(size int64) error {
	if size < 0 || size > maxKeyslotsSize || size%4096 != 0 {
		return invalid(RuleConfigSize, "keyslots_size is %d, not a multiple of 4096 up to %d", size, maxKeyslotsSize)
	}
	return nil
}

func checkWords(rule Rule, what string, list []string) error {
	seen := make(map[string]bool, len(list))
	for _, w := range list {
		if !isWord(w) || seen[w] {
			return invalid(rule, "%s has %q: empty, no word or twice", what, w)
		}
		seen[w] = true
	}
	return nil
}

// isWord reports whether s is not empty and only printable ASCII without spaces.
func isWord(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}
