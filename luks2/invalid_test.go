// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"imxcrypt/internal/fault"
)

// build returns a device whose two copies have that text and a binary header changed by
// change, but correct checksums.
func build(t testing.TB, text string, change func(buf []byte)) *memory {
	t.Helper()
	return buildWithTail(t, append([]byte(text), 0), change)
}

func buildWithTail(t testing.TB, area []byte, change func(buf []byte)) *memory {
	t.Helper()
	m := newSparse(64 << 20)
	if len(area) > DefaultCopySize-binarySize {
		t.Fatalf("text of %d bytes", len(area))
	}
	for _, secondary := range []bool{false, true} {
		b := binaryHeader{size: DefaultCopySize, seqID: 3, label: "data", subsystem: "imxcrypt", uuid: testUUID}
		b.salt[0] = 1
		buf := encodeCopy(b, area, secondary)
		if change != nil {
			change(buf)
			sum := checksum(buf)
			copy(buf[offChecksum:], sum[:])
		}
		off := 0
		if secondary {
			off = DefaultCopySize
		}
		copy(m.data[off:], buf)
	}
	return m
}

// ourText is the text of a header of ours, reencryptText that of cryptsetup's richest
// one.
func ourText(t testing.TB) string {
	t.Helper()
	h := newHeader(t)
	text, err := h.encode(h.place(64 << 20))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func realText(t testing.TB, name string) string {
	t.Helper()
	text, _, _ := strings.Cut(string(realHeader(t, name)[binarySize:]), "\x00")
	return text
}

// laxity is what cryptsetup 2.6.1 does with a header that we refuse.
type laxity bool

const (
	both laxity = false // refuses it too
	lax  laxity = true  // accepts it
)

type invalidText struct {
	name     string
	from     string // which text: "" for ours, or a real header's name
	old, new string
	rule     Rule
	laxity   laxity
}

var invalidTexts = []invalidText{
	// JSON
	{"leading space", "", `{"keyslots"`, ` {"keyslots"`, RuleJSONStart, both},
	{"not an object", "", `{"keyslots":{}`, `["keyslots",{}`, RuleJSONStart, both},
	{"missing comma", "", `,"segments"`, ` "segments"`, RuleJSONSyntax, both},
	{"trailing comma", "", `["0"]`, `["0",]`, RuleJSONSyntax, lax},
	{"comment", "", `,"segments"`, `,/**/"segments"`, RuleJSONSyntax, lax},
	{"single quotes", "", `"phase"`, `'phase'`, RuleJSONSyntax, lax},
	{"broken UTF-8", "", `"imxcrypt-check"`, "\"imxcrypt\xff-check\"", RuleJSONSyntax, lax},
	{"control character in a string", "", `"imxcrypt-check"`, "\"imxcrypt\n-check\"", RuleJSONSyntax, lax},
	{"zero byte in a string", "", `"imxcrypt-check"`, `"imxcrypt\u0000-check"`, RuleJSONSyntax, lax},
	{"half a surrogate pair", "", `"imxcrypt-check"`, `"imxcrypt\ud800-check"`, RuleJSONSyntax, lax},
	{"number with a leading zero", "", `"sector_size":4096`, `"sector_size":04096`, RuleJSONSyntax, lax},
	{"nested too deep", "", `"key_size":32`, `"key_size":` + strings.Repeat("[", 40) + strings.Repeat("]", 40), RuleJSONDepth, both},
	{"duplicate member", "", `"offset":"2097152"`, `"offset":"2097152","offset":"4194304"`, RuleJSONDuplicate, lax},
	{"duplicate member by an escape", "", `"offset":"2097152"`, `"offset":"2097152","off\u0073et":"4194304"`, RuleJSONDuplicate, lax},
	{"duplicate section", "", `"tokens"`, `"segments":{},"tokens"`, RuleJSONDuplicate, lax},
	{"duplicate member in a token's depth", "", `"key_size":32`, `"x":{"a":{"b":1,"b":2}}`, RuleJSONDuplicate, lax},
	{"ends early", "", `"keyslots_size":"1015808","requirements":{"mandatory":["imxcrypt-v1"]}}}`, `"keyslots_size":"1015808"`, RuleJSONSyntax, both},
	// sections and their members
	{"no keyslots", "", `"keyslots":{},"tokens"`, `"tokens"`, RuleMember, both},
	{"no tokens", "", `"tokens":`, `"token":`, RuleMember, both},
	{"no segments", "", `"segments":{"0"`, `"segment":{"0"`, RuleMember, both},
	{"no digests", "", `"digests":`, `"digest":`, RuleMember, both},
	{"no config", "", `"config":`, `"konfig":`, RuleMember, both},
	{"config is a list", "", `"config":{"json_size":"12288","keyslots_size":"1015808","requirements":{"mandatory":["imxcrypt-v1"]}}`, `"config":[]`, RuleMember, both},
	{"token without a type", "", `{"type":"imxcrypt",`, `{"typ":"imxcrypt",`, RuleMember, both},
	{"token type is a number", "", `{"type":"imxcrypt",`, `{"type":1,`, RuleMember, both},
	{"token without keyslots", "", `"imxcrypt","keyslots":[]`, `"imxcrypt","keyslot":[]`, RuleMember, both},
	{"token name with a letter", "", `"tokens":{"0"`, `"tokens":{"a"`, RuleIdentifier, both},
	{"token name with a leading zero", "", `"tokens":{"0"`, `"tokens":{"00"`, RuleIdentifier, lax},
	{"empty token name", "", `"tokens":{"0"`, `"tokens":{""`, RuleIdentifier, lax},
	{"token names no keyslot", "", `"imxcrypt","keyslots":[]`, `"imxcrypt","keyslots":["0"]`, RuleReference, both},
	{"keyring token without description", "", `{"type":"imxcrypt",`, `{"type":"luks2-keyring",`, RuleMember, lax},
	{"digest without segments", "", `"segments":["0"]`, `"segmenta":["0"]`, RuleMember, both},
	{"digest names no segment", "", `"segments":["0"]`, `"segments":["0","1"]`, RuleReference, both},
	{"digest names a segment by number", "", `"segments":["0"]`, `"segments":[0]`, RuleMember, both},
	{"digest names a segment twice", "", `"segments":["0"]`, `"segments":["0","0"]`, RuleReferenceTwice, lax},
	{"digest names no keyslot", "", `"imxcrypt-check","keyslots":[]`, `"imxcrypt-check","keyslots":["7"]`, RuleReference, both},
	{"digest of type pbkdf2 without its members", "", `"imxcrypt-check"`, `"pbkdf2"`, RuleMember, lax},
	{"token type is empty", "", `{"type":"imxcrypt",`, `{"type":"",`, RuleMember, both},
	{"digest type is empty", "", `"imxcrypt-check"`, `""`, RuleMember, both},
	// config
	{"json_size is another", "", `"json_size":"12288"`, `"json_size":"28672"`, RuleJSONSize, both},
	{"json_size is a number", "", `"json_size":"12288"`, `"json_size":12288`, RuleMember, both},
	{"keyslots_size not in pages", "", `"keyslots_size":"1015808"`, `"keyslots_size":"1015809"`, RuleConfigSize, both},
	{"keyslots_size too large", "", `"keyslots_size":"1015808"`, `"keyslots_size":"134221824"`, RuleConfigSize, both},
	{"keyslots_size negative", "", `"keyslots_size":"1015808"`, `"keyslots_size":"-4096"`, RuleNumber, both},
	{"keyslots_size with a blank", "", `"keyslots_size":"1015808"`, `"keyslots_size":" 1015808"`, RuleNumber, lax},
	{"keyslots_size over 64 bits", "", `"keyslots_size":"1015808"`, `"keyslots_size":"18446744073709551616"`, RuleNumber, both},
	{"flags are no list", "", `"requirements":`, `"flags":"x","requirements":`, RuleMember, both},
	{"a flag is a number", "", `"requirements":`, `"flags":[1],"requirements":`, RuleMember, both},
	{"a flag is empty", "", `"requirements":`, `"flags":[""],"requirements":`, RuleConfigFlags, lax},
	{"requirements are a list", "", `"requirements":{"mandatory":["imxcrypt-v1"]}`, `"requirements":["imxcrypt-v1"]`, RuleMember, both},
	{"mandatory is a word", "", `"mandatory":["imxcrypt-v1"]`, `"mandatory":"imxcrypt-v1"`, RuleMember, both},
	{"a requirement is empty", "", `"mandatory":["imxcrypt-v1"]`, `"mandatory":[""]`, RuleRequirements, lax},
	// segments
	{"no segment at all", "", `"segments":["0"]`, `"segments":[]`, RuleSegmentDigest, both},
	{"segments do not begin with 0", "reencrypt-none", `"segments":{"0":{`, `"segments":{"3":{`, RuleReference, both},
	{"segment without offset", "", `"offset":"2097152"`, `"ofset":"2097152"`, RuleMember, both},
	{"offset with a sign", "", `"offset":"2097152"`, `"offset":"+2097152"`, RuleNumber, both},
	{"offset is empty", "", `"offset":"2097152"`, `"offset":""`, RuleMember, both},
	{"offset with a leading zero", "", `"offset":"2097152"`, `"offset":"02097152"`, RuleNumber, lax},
	{"offset over 64 bits", "", `"offset":"2097152"`, `"offset":"18446744073709553664"`, RuleNumber, both},
	{"offset over 63 bits", "", `"offset":"2097152"`, `"offset":"9223372036854775808"`, RuleNumber, lax},
	{"offset not in sectors", "", `"offset":"2097152"`, `"offset":"2097153"`, RuleAlignment, both},
	{"offset not in sectors of the segment", "", `"offset":"2097152"`, `"offset":"2097664"`, RuleAlignment, lax},
	{"segment in the header", "", `"offset":"2097152"`, `"offset":"1044480"`, RuleSegmentInHeader, both},
	{"segment at 0 of its own device", "", `"offset":"2097152"`, `"offset":"0"`, RuleSegmentInHeader, lax},
	{"size 0", "", `"size":"8388608"`, `"size":"0"`, RuleSegmentBounds, both},
	{"size is a word", "", `"size":"8388608"`, `"size":"dynamical"`, RuleNumber, both},
	{"size not in sectors", "", `"size":"8388608"`, `"size":"8388609"`, RuleAlignment, both},
	{"size not in sectors of the segment", "", `"size":"8388608"`, `"size":"8389120"`, RuleAlignment, both},
	{"segment leaves the device", "", `"size":"8388608"`, `"size":"67108864"`, RuleSegmentBounds, lax},
	{"segment overflows", "", `"size":"8388608"`, `"size":"9223372036854771712"`, RuleSegmentBounds, lax},
	{"segment begins behind the device", "", `"offset":"2097152","size":"8388608"`, `"offset":"67108864","size":"dynamic"`, RuleSegmentBounds, lax},
	{"dynamic size before the last", "", `"size":"8388608"`, `"size":"dynamic"`, RuleSegmentDynamic, both},
	{"segments overlap", "", `"size":"8388608"`, `"size":"8392704"`, RuleSegmentOverlap, both},
	{"iv_tweak is a number", "", `"iv_tweak":"0"`, `"iv_tweak":0`, RuleMember, both},
	{"iv_tweak over 64 bits", "", `"iv_tweak":"0"`, `"iv_tweak":"18446744073709551616"`, RuleNumber, both},
	{"iv_tweak not in sectors", "", `"iv_tweak":"0"`, `"iv_tweak":"3"`, RuleAlignment, lax},
	{"no encryption", "", `"encryption":`, `"encrypted":`, RuleMember, both},
	{"encryption with a blank", "", `plain64"`, `plain64 0"`, RuleSegmentEncryption, lax},
	{"encryption empty", "", `"capi:tk(cbc(aes))-plain64"`, `""`, RuleMember, both},
	{"sector size 0", "", `"sector_size":4096`, `"sector_size":0`, RuleSegmentSectorSize, both},
	{"sector size 1536", "", `"sector_size":4096`, `"sector_size":1536`, RuleSegmentSectorSize, both},
	{"sector size 8192", "", `"sector_size":4096`, `"sector_size":8192`, RuleSegmentSectorSize, lax},
	{"sector size is a string", "", `"sector_size":4096`, `"sector_size":"4096"`, RuleMember, both},
	{"sector size negative", "", `"sector_size":4096`, `"sector_size":-512`, RuleNumber, both},
	{"sector size with a fraction", "", `"sector_size":4096`, `"sector_size":4096.0`, RuleNumber, both},
	{"sector size over 32 bits", "", `"sector_size":4096`, `"sector_size":4294971392`, RuleNumber, both},
	{"flags of a segment are no list", "", `"sector_size":4096`, `"sector_size":4096,"flags":"x"`, RuleMember, both},
	{"a segment's flag is a number", "", `"sector_size":4096`, `"sector_size":4096,"flags":[1]`, RuleMember, both},
	{"integrity without its members", "", `"sector_size":4096`, `"sector_size":4096,"integrity":{"type":"x"}`, RuleMember, both},
	{"only a backup segment", "", `"sector_size":4096`, `"sector_size":4096,"flags":["backup-final"]`, RuleSegments, both},
	{"backup segment first", "reencrypt-none", `"sector_size":4096},"1"`, `"sector_size":4096,"flags":["backup-x"]},"1"`, RuleSegments, both},
	// keyslots
	{"keyslot without a type", "argon2id", `{"0":{"type":"luks2"`, `{"0":{"typ":"luks2"`, RuleMember, both},
	{"keyslot without key_size", "argon2id", `"luks2","key_size":64`, `"luks2","keysize":64`, RuleMember, both},
	{"keyslot without area", "argon2id", `"area":`, `"aria":`, RuleMember, both},
	{"area in the header", "argon2id", `"offset":"32768"`, `"offset":"28672"`, RuleAreaBounds, both},
	{"area leaves the keyslots area", "argon2id", `"size":"258048"`, `"size":"16748544"`, RuleAreaBounds, both},
	{"area is empty", "argon2id", `"size":"258048"`, `"size":"0"`, RuleAreaBounds, both},
	{"area overflows", "argon2id", `"size":"258048"`, `"size":"9223372036854775296"`, RuleAreaBounds, both},
	{"area wraps round 64 bits", "argon2id", `"size":"258048"`, `"size":"18446744073709551104"`, RuleNumber, both},
	{"area not in sectors", "argon2id", `"offset":"32768"`, `"offset":"32769"`, RuleAlignment, lax},
	{"areas overlap", "reencrypt-checksum", `"offset":"290816"`, `"offset":"286720"`, RuleAreaOverlap, both},
	{"area of another type", "argon2id", `"type":"raw"`, `"type":"cooked"`, RuleArea, both},
	{"area without encryption", "argon2id", `"size":"258048","encryption"`, `"size":"258048","encription"`, RuleMember, both},
	{"af of another type", "argon2id", `"af":{"type":"luks1"`, `"af":{"type":"luks9"`, RuleKeyslot, both},
	{"af without stripes", "argon2id", `"stripes":4000`, `"strips":4000`, RuleMember, both},
	{"digest of no iterations", "argon2id", `"digests":{"0":{"type":"pbkdf2","keyslots":["0"],"segments":["0"],"hash":"sha256","iterations":1000,`, `"digests":{"0":{"type":"pbkdf2","keyslots":["0"],"segments":["0"],"hash":"sha256","iterations":0,`, RuleDigest, lax},
	{"kdf without salt", "reencrypt-none", `"hash":"sha256","iterations":1000,"salt":`, `"hash":"sha256","iterations":1000,"malt":`, RuleMember, both},
	{"kdf of another type", "argon2id", `"type":"argon2id"`, `"type":"scrypt"`, RuleKeyslot, lax},
	{"kdf without passes", "argon2id", `"time":4`, `"time":0`, RuleNumber, lax},
	{"priority 3", "reencrypt-none", `"priority":0`, `"priority":3`, RuleKeyslot, lax},
	{"keyslot without a digest", "argon2id", `"keyslots":["0"]`, `"keyslots":[]`, RuleKeyslotDigest, both},
	{"keyslot with two digests", "reencrypt-none", `"keyslots":["1"]`, `"keyslots":["0","1"]`, RuleKeyslotDigest, both},
	{"re-encryption without its requirement", "reencrypt-none", `["online-reencrypt-v2"]`, `[]`, RuleReencryption, both},
	{"requirement without a re-encryption", "argon2id", `"config":{`, `"config":{"requirements":{"mandatory":["online-reencrypt-v2"]},`, RuleReencryption, both},
	{"re-encryption of an unknown segment", "encrypt-datashift", `"0":{"type":"linear"`, `"0":{"type":"future"`, RuleReencryption, both},
	{"re-encryption without the state before", "reencrypt-none", `"backup-previous"`, `"backup-final"`, RuleReencryption, both},
	{"re-encryption without the state after", "reencrypt-none", `"backup-final"`, `"backup-previous"`, RuleReencryption, both},
	{"two requirements of a re-encryption", "reencrypt-none", `["online-reencrypt-v2"]`, `["online-reencrypt-v2","online-reencrypt-v3"]`, RuleReencryption, both},
	{"reencrypt key_size", "reencrypt-none", `"key_size":1,`, `"key_size":2,`, RuleKeyslot, both},
	{"reencrypt mode", "reencrypt-none", `"mode":"reencrypt"`, `"mode":"recrypt"`, RuleKeyslot, both},
	{"reencrypt direction", "reencrypt-none", `"direction":"forward"`, `"direction":"up"`, RuleKeyslot, both},
	{"reencrypt area type", "reencrypt-none", `"type":"none"`, `"type":"nothing"`, RuleArea, lax},
	{"checksum without hash", "reencrypt-checksum", `"type":"checksum","hash"`, `"type":"checksum","hush"`, RuleMember, both},
	{"checksum sector size", "reencrypt-checksum", `"sector_size":4096},"type":"reencrypt"`, `"sector_size":4097},"type":"reencrypt"`, RuleArea, both},
	{"datashift of no sectors", "encrypt-datashift", `"shift_size":"16777216"`, `"shift_size":"16777217"`, RuleArea, both},
}

// text returns the invalid text.
func (tc invalidText) text(t testing.TB) string {
	t.Helper()
	base := ""
	switch {
	case tc.from != "":
		base = realText(t, tc.from)
	case tc.rule == RuleSegmentOverlap || tc.rule == RuleSegmentDynamic:
		base = twoSegments(t)
	default:
		base = ourText(t)
	}
	if !strings.Contains(base, tc.old) {
		t.Fatalf("%q is not in %s", tc.old, base)
	}
	return strings.Replace(base, tc.old, tc.new, 1)
}

// twoSegments returns a valid header's text with a second segment right behind the first.
func twoSegments(t testing.TB) string {
	t.Helper()
	h := newHeader(t)
	s := h.Metadata.Segments["0"]
	s.Offset += s.Size
	s.Size = 1 << 20
	h.Metadata.Segments["1"] = s
	h.Metadata.Digests["1"] = Digest{Type: "imxcrypt-check", Segments: []string{"1"}}
	text, err := h.encode(h.place(64 << 20))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestInvalidTextsAreRefusedByTheirRule(t *testing.T) {
	t.Parallel()
	seen := map[Rule]bool{}
	for _, tc := range invalidTexts {
		seen[tc.rule] = true
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := build(t, tc.text(t), nil)
			_, copies, err := Read(m, m.Size())
			wantRule(t, err, tc.rule)
			if fault.CodeOf(err) != fault.HeaderInvalid {
				t.Errorf("fault code %s", fault.CodeOf(err))
			}
			if copies.Primary.State != CopyInvalid || copies.Secondary.State != CopyInvalid {
				t.Errorf("copies %+v", copies)
			}
			// And nothing is written over it.
			if repaired, _ := Repair(m); repaired {
				t.Error("it was repaired")
			}
			if err := newHeader(t).Format(m); err == nil {
				t.Error("it was formatted over")
			}
			if m.writes != 0 {
				t.Error("the device was written to")
			}
		})
	}
	t.Logf("%d invalid texts, %d rules", len(invalidTexts), len(seen))
}

func wantRule(t testing.TB, err error, rule Rule) {
	t.Helper()
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.Rule != rule {
		t.Errorf("got %v, want rule %s", err, rule)
	}
}

func TestTextsThatLookOddAndAreValid(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, old, new string }{
		{"white space inside", `,"segments"`, " ,\n\t\"segments\""},
		{"unknown sections and members", `"tokens"`, `"x":[{}],"tokens"`},
		{"escaped name", `"offset"`, `"off\u0073et"`},
		{"segment of unknown type", `"type":"crypt"`, `"type":"future"`},
		{"token number with a gap", `"tokens":{"0"`, `"tokens":{"31"`},
		{"empty requirements", `{"mandatory":["imxcrypt-v1"]}`, `{}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(ourText(t), tc.old, tc.new, 1)
			m := build(t, text, nil)
			h, _, err := Read(m, m.Size())
			if err != nil {
				t.Fatal(err)
			}
			rewritten(t, h)
		})
	}
}

func TestInvalidAreas(t *testing.T) {
	t.Parallel()
	text := ourText(t)
	full := make([]byte, DefaultCopySize-binarySize)
	for i := range full {
		full[i] = ' '
	}
	copy(full, text[:len(text)-1])
	full[len(full)-1] = '}'
	for _, tc := range []struct {
		name string
		area []byte
		rule Rule
	}{
		{"empty", []byte{0}, RuleJSONStart},
		{"no zero byte behind", full, RuleJSONTerminated},
		{"blank behind", []byte(text + " "), RuleJSONTrailing},
		{"second text behind", []byte(text + "\x00{}"), RuleJSONTrailing},
		{"a byte far behind", append([]byte(text), append(make([]byte, 3000), 'x')...), RuleJSONTrailing},
		{"zero byte inside", []byte(text[:100] + "\x00" + text[100:]), RuleJSONTerminated},
		{"ends in a string", []byte(`{"keyslots`), RuleJSONTerminated},
		{"ends where a value should be", []byte(`{"keyslots":`), RuleJSONTerminated},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := buildWithTail(t, tc.area, nil)
			_, _, err := Read(m, m.Size())
			wantRule(t, err, tc.rule)
		})
	}
}

func TestInvalidBinaryHeadersAreRefusedByTheirRule(t *testing.T) {
	t.Parallel()
	text := ourText(t)
	for _, tc := range []struct {
		name   string
		change func(buf []byte)
		rule   Rule
	}{
		{"size 0", func(b []byte) { binary.BigEndian.PutUint64(b[offSize:], 0) }, RuleHeaderSize},
		{"size 24 KiB", func(b []byte) { binary.BigEndian.PutUint64(b[offSize:], 24<<10) }, RuleHeaderSize},
		{"size 8 MiB", func(b []byte) { binary.BigEndian.PutUint64(b[offSize:], 8<<20) }, RuleHeaderSize},
		{"size over 63 bits", func(b []byte) { binary.BigEndian.PutUint64(b[offSize:], 1<<63|16<<10) }, RuleHeaderSize},
		{"lies elsewhere", func(b []byte) { binary.BigEndian.PutUint64(b[offOffset:], 512) }, RuleHeaderOffset},
		{"checksum algorithm", func(b []byte) { copy(b[offAlgorithm:], "md5\x00\x00\x00") }, RuleChecksumAlgorithm},
		{"label not terminated", func(b []byte) { fillBytes(b[offLabel:offLabel+lenLabel], 'x') }, RuleText},
		{"label with something behind", func(b []byte) { b[offLabel+40] = 'x' }, RuleText},
		{"subsystem not terminated", func(b []byte) { fillBytes(b[offSubsystem:offSubsystem+lenLabel], 'x') }, RuleText},
		{"no UUID", func(b []byte) { fillBytes(b[offUUID:offUUID+lenUUID], 0) }, RuleUUID},
		{"UUID without dashes", func(b []byte) { b[offUUID+8] = '0' }, RuleUUID},
		{"UUID with a slash", func(b []byte) { b[offUUID] = '/' }, RuleUUID},
		{"something behind the offset", func(b []byte) { b[offPadding] = 1 }, RulePadding},
		{"something behind the header", func(b []byte) { b[binarySize-1] = 1 }, RulePadding},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := build(t, text, tc.change)
			_, _, err := Read(m, m.Size())
			if tc.rule.damage() {
				var damaged *DamagedError
				if !errors.As(err, &damaged) {
					t.Fatalf("got %v", err)
				}
				wantRule(t, damaged.Primary, tc.rule)
				if fault.CodeOf(err) != fault.HeaderDamaged {
					t.Errorf("fault code %s", fault.CodeOf(err))
				}
				return
			}
			wantRule(t, err, tc.rule)
		})
	}
}

func fillBytes(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}
