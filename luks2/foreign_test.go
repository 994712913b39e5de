// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"testing"
)

// Headers that cryptsetup accepts, and reads correctly, although the specification is
// stricter: the same kinds as among the valid images of its own test suite.
func TestForeignHeadersAreCheckedAsCryptsetupDoes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from, old, new string
		rule           Rule // that Check reports as broken
		valid          bool // for CheckForeign, as for cryptsetup
	}{
		"a key derivation that is not known":   {"argon2id", `"type":"argon2id"`, `"type":"argon2"`, RuleKeyslot, true},
		"pbkdf2's members left in argon2id":    {"argon2id", `"cpus":1`, `"cpus":1,"hash":"sha256","iterations":1000`, RuleKeyslot, true},
		"argon2id's members left in pbkdf2":    {"sector-2048-cbc", `"type":"pbkdf2","hash"`, `"type":"pbkdf2","time":4,"memory":32,"cpus":1,"hash"`, RuleKeyslot, true},
		"a size near 2^64":                     {"argon2id", `"size":"dynamic"`, `"size":"18446744073709547520"`, RuleNumber, true},
		"an offset near 2^64":                  {"argon2id", `"offset":"16777216","size":"dynamic"`, `"offset":"18446744073709547520","size":"dynamic"`, RuleNumber, true},
		"a size near 2^64, not whole sectors":  {"argon2id", `"size":"dynamic"`, `"size":"18446744073709551105"`, RuleNumber, false},
		"a size of 2^64":                       {"argon2id", `"size":"dynamic"`, `"size":"18446744073709551616"`, RuleNumber, false},
		"an iv_tweak that dm-crypt refuses":    {"argon2id", `"iv_tweak":"0"`, `"iv_tweak":"1"`, RuleAlignment, true},
		"an offset that dm-crypt refuses":      {"argon2id", `"offset":"16777216","size":"dynamic"`, `"offset":"16777728","size":"dynamic"`, RuleAlignment, true},
		"a sector size that dm-crypt refuses":  {"argon2id", `"sector_size":4096`, `"sector_size":8192`, RuleSegmentSectorSize, true},
		"a keyslot named twice":                {"argon2id", `"keyslots":["0"]`, `"keyslots":["0","0"]`, RuleReferenceTwice, true},
		"a priority that is not known":         {"argon2id", `"type":"luks2",`, `"type":"luks2","priority":7,`, RuleKeyslot, true},
		"a keyslot without a digest":           {"argon2id", `"keyslots":["0"],"segments"`, `"keyslots":[],"segments"`, RuleKeyslotDigest, false},
		"an area outside of the keyslots area": {"argon2id", `"offset":"32768"`, `"offset":"4096"`, RuleAreaBounds, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := realText(t, c.from)
			changed := bytes.Replace([]byte(text), []byte(c.old), []byte(c.new), 1)
			if string(changed) == text {
				t.Fatalf("%q is not in %s", c.old, text)
			}
			m := build(t, string(changed), nil)
			_, err := Check(m, m.Size(), -1)
			wantRule(t, err, c.rule)
			if report, err := CheckForeign(m, m.Size(), -1); (err == nil) != c.valid || c.valid && !report.Copies.Intact() {
				t.Errorf("%+v, %v", report, err)
			}
			if out, err := run(t, "cryptsetup", "luksDump", imageFile(t, m)); (err == nil) != c.valid {
				t.Errorf("cryptsetup: %v\n%s", err, out)
			}
		})
	}
}

// The same for the binary header: what cryptsetup does not look at.
func TestForeignBinaryHeadersAreCheckedAsCryptsetupDoes(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func([]byte){
		"padding": func(buf []byte) { buf[offPadding] = 1 },
		"UUID":    func(buf []byte) { copy(buf[offUUID:], "somebody's own text, as long as 36 ") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := build(t, realText(t, "argon2id"), change)
			if _, err := Check(m, m.Size(), -1); err == nil {
				t.Error("Check takes it")
			}
			if _, err := CheckForeign(m, m.Size(), -1); err != nil {
				t.Error(err)
			}
			mustRun(t, "cryptsetup", "luksDump", imageFile(t, m))
		})
	}
}

// What Check refuses, CheckForeign accepts if cryptsetup does, except texts that are not
// JSON or that two readers may understand in two ways.
func TestForeignHeadersMustBeJSONThatReadsOneWay(t *testing.T) {
	t.Parallel()
	taken := 0
	for _, tc := range invalidTexts {
		m := build(t, tc.text(t), nil)
		_, err := CheckForeign(m, m.Size(), -1)
		if err == nil {
			taken++
		}
		if tc.laxity == both && err == nil {
			t.Errorf("%s: taken, and not by cryptsetup", tc.name)
		}
		if tc.laxity == lax && err != nil && tc.rule != RuleJSONSyntax && tc.rule != RuleJSONDuplicate && tc.rule != RuleIdentifier && tc.rule != RuleNumber {
			t.Errorf("%s: %v, and cryptsetup takes it", tc.name, err)
		}
	}
	if taken == 0 {
		t.Error("none is taken")
	}
}
