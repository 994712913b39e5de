// SPDX-License-Identifier: Apache-2.0

package luks2

// Rule names one requirement of the format. The names are stable: they appear in `header
// check` and in the documentation.
type Rule string

// Rules of the binary header that only damage breaks.
const (
	RuleMagic             Rule = "magic"
	RuleHeaderSize        Rule = "header-size"   // one of nine
	RuleHeaderOffset      Rule = "header-offset" // the copy says where it is
	RuleChecksumAlgorithm Rule = "checksum-algorithm"
	RuleChecksum          Rule = "checksum"
	RuleTruncated         Rule = "truncated" // the device ends within the copy
)

// Rules of the binary header's content.
const (
	RuleText       Rule = "text-field" // label, subsystem: terminated, only zeros after it
	RuleUUID       Rule = "uuid"
	RulePadding    Rule = "padding" // unused bytes of the binary header are zero
	RuleSequence   Rule = "sequence-number"
	RuleTwoVolumes Rule = "copies-of-two-volumes"
	RuleDeviceSize Rule = "device-too-small" // header and keyslots area fit the device
)

// Rules of the JSON text.
const (
	RuleJSONStart      Rule = "json-start"      // begins with "{" at the first byte
	RuleJSONTerminated Rule = "json-terminated" // a zero byte follows
	RuleJSONTrailing   Rule = "json-trailing"   // and only zeros follow to the end
	RuleJSONSyntax     Rule = "json-syntax"     // RFC 8259, UTF-8, no zero byte in a string
	RuleJSONDuplicate  Rule = "json-duplicate"  // no member occurs twice in an object
	RuleJSONDepth      Rule = "json-depth"
	RuleJSONCount      Rule = "json-count" // of values, of all kinds
	RuleJSONSize       Rule = "json-size"  // the text fits its area, json_size is the area's size
)

// Rules of the metadata.
const (
	RuleMember            Rule = "member"       // a member is missing or has another type
	RuleNumber            Rule = "number"       // a number, or a number as a string, is out of range
	RuleIdentifier        Rule = "identifier"   // object names are numbers: "0", "1" …
	RuleReference         Rule = "reference"    // a named keyslot or segment does not exist
	RuleReferenceTwice    Rule = "twice-named"  // a list names the same one twice
	RuleConfigSize        Rule = "config-size"  // keyslots_size
	RuleConfigFlags       Rule = "config-flags" // lists of words
	RuleRequirements      Rule = "requirements"
	RuleArea              Rule = "area"        // type, or members its type requires
	RuleAreaBounds        Rule = "area-bounds" // inside the keyslots area, not empty
	RuleAreaOverlap       Rule = "area-overlap"
	RuleAlignment         Rule = "alignment"      // offsets and sizes are whole sectors
	RuleKeyslot           Rule = "keyslot"        // members its type requires
	RuleKeyslotDigest     Rule = "keyslot-digest" // each "luks2" keyslot has exactly one
	RuleReencryption      Rule = "reencryption"   // one keyslot and the requirement, or neither
	RuleDigest            Rule = "digest"         // numbers its type requires
	RuleSegments          Rule = "segments"       // at least one, numbered without gaps, backups last
	RuleSegmentEncryption Rule = "encryption"     // a word
	RuleSegmentSectorSize Rule = "sector-size"    // 512, 1024, 2048 or 4096
	RuleSegmentDynamic    Rule = "dynamic-size"   // only the last one
	RuleSegmentOverlap    Rule = "segment-overlap"
	RuleSegmentInHeader   Rule = "segment-in-header"
	RuleSegmentBounds     Rule = "segment-bounds" // inside the device
	RuleSegmentDigest     Rule = "segment-digest" // each crypt segment has one
)

// damage reports whether accidental damage can break the rule. All other rules are
// protected by a matching checksum.
func (r Rule) damage() bool {
	switch r {
	case RuleMagic, RuleHeaderSize, RuleHeaderOffset, RuleChecksumAlgorithm, RuleChecksum, RuleTruncated:
		return true
	}
	return false
}
