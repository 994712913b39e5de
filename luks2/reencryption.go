// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"slices"
	"strings"
)

// What cryptsetup requires of headers with its own keyslots and its own re-encryption
// (lib/luks2, 2.6.1). Our headers have neither: a rotation of ours shows in tokens,
// segments and a requirement of ours.

// validateKeyslotDigests checks that each "luks2" keyslot holds one volume key.
func (d *decoder) validateKeyslotDigests() error {
	digests := map[string]int{}
	for _, g := range d.md.Digests {
		for _, id := range g.Keyslots {
			digests[id]++
		}
	}
	for _, id := range sortedIDs(d.md.Keyslots) {
		if string(d.md.Keyslots[id]["type"]) == `"luks2"` && digests[id] != 1 {
			return invalid(RuleKeyslotDigest, "keyslot %s has %d digests, not one", id, digests[id])
		}
	}
	return nil
}

// validateReencryption checks that a re-encryption has a requirement, one keyslot, and
// the states before and after it as backup segments, and that each segment is in one of
// the two states.
func (d *decoder) validateReencryption() error {
	keyslots, requirements := 0, 0
	for _, k := range d.md.Keyslots {
		if string(k["type"]) == `"reencrypt"` {
			keyslots++
		}
	}
	for _, name := range d.md.Config.Mandatory {
		if name == "online-reencrypt" || strings.HasPrefix(name, "online-reencrypt-v") {
			requirements++
		}
	}
	if keyslots > 1 || keyslots != requirements {
		return invalid(RuleReencryption, `%d keyslots of type "reencrypt", %d requirements "online-reencrypt"`, keyslots, requirements)
	}
	if keyslots == 0 {
		return nil
	}
	var before, after *Segment
	for _, id := range d.md.SegmentIDs() {
		s := d.md.Segments[id]
		switch {
		case slices.Contains(s.Flags, "backup-final"):
			after = &s
		case slices.Contains(s.Flags, "backup-previous"):
			before = &s
		}
	}
	if before == nil || after == nil {
		return invalid(RuleReencryption, `no segment "backup-previous", or none "backup-final"`)
	}
	for _, id := range d.md.SegmentIDs() {
		s := d.md.Segments[id]
		if s.Backup() || s.sameCipher(after) {
			continue
		}
		if slices.Contains(s.Flags, FlagInReencryption) || !s.sameCipher(before) {
			return invalid(RuleReencryption, "segment %s is neither as before nor as after", id)
		}
	}
	return nil
}

// sameCipher reports whether data looks the same in both segments.
func (s Segment) sameCipher(other *Segment) bool {
	return s.Type == other.Type && s.Encryption == other.Encryption && s.SectorSize == other.SectorSize
}
