// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// fuzzDevice is a small device: its size is given as larger than its bytes, so that
// nothing needs to be allocated for what headers say about the rest.
const fuzzDevice = 64 << 20

// sealed returns a device whose two copies have that area, with correct checksums.
// second, if not nil, is the second copy's area.
func sealed(area, second []byte, change func(buf []byte)) []byte {
	data := make([]byte, 2*DefaultCopySize)
	for i, text := range [][]byte{area, second} {
		b := binaryHeader{size: DefaultCopySize, seqID: 3, label: "data", subsystem: "imxcrypt", uuid: testUUID}
		if text == nil {
			text = area
		}
		buf := encodeCopy(b, text, i == 1)
		if change != nil {
			change(buf)
			sum := checksum(buf)
			copy(buf[offChecksum:], sum[:])
		}
		copy(data[i*DefaultCopySize:], buf)
	}
	return data
}

// checkInvariants checks what holds for any bytes.
func checkInvariants(t *testing.T, data []byte) {
	t.Helper()
	r := bytes.NewReader(data)
	report, err := Check(r, fuzzDevice, -1)
	if (err == nil) != (report.Header != nil) {
		t.Fatalf("error %v with header %v", err, report.Header)
	}
	if h, _, err := Read(r, fuzzDevice); err == nil {
		if report.Header == nil {
			t.Fatal("read takes what check refuses")
		}
		for id, s := range h.Metadata.Segments {
			if !s.Backup() && (s.Offset < h.Area() || s.End(fuzzDevice) > fuzzDevice || s.Offset >= fuzzDevice) {
				t.Fatalf("segment %s from %d to %d was taken", id, s.Offset, s.End(fuzzDevice))
			}
		}
	}
	if report.Header == nil {
		return
	}
	rewritten(t, report.Header)
	if report.Header.CopySize() != DefaultCopySize || len(data) < 2*DefaultCopySize {
		return
	}
	// What is accepted can be repaired and written, and reads the same.
	m := newSparse(fuzzDevice)
	copy(m.data, data)
	if _, err := Repair(m); err != nil {
		return // something else is in place of the first copy
	}
	after, err := Check(m, fuzzDevice, -1)
	if err != nil || !after.Copies.Intact() {
		t.Fatalf("after the repair: %v, %+v", err, after.Copies)
	}
	if !reflect.DeepEqual(after.Header.Metadata, report.Header.Metadata) {
		t.Fatalf("the repair changed the content")
	}
}

// FuzzText has correct checksums around any text.
func FuzzText(f *testing.F) {
	for _, tc := range invalidTexts {
		f.Add([]byte(tc.text(f)))
	}
	for _, tc := range realHeaders {
		f.Add([]byte(realText(f, tc.name)))
	}
	f.Add([]byte(ourText(f)))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > DefaultCopySize-binarySize {
			return
		}
		checkInvariants(t, sealed(text, nil, nil))
	})
}

// FuzzMetadata changes a valid header's JSON through its structure: a script of changes,
// each of four bytes, is applied to one of the real texts.
func FuzzMetadata(f *testing.F) {
	bases := []string{ourText(f), twoSegments(f)}
	for _, tc := range realHeaders {
		bases = append(bases, realText(f, tc.name))
	}
	for i := range bases {
		f.Add(byte(i), []byte{0, 0, 0, 0}, []byte{})
		f.Add(byte(i), []byte{1, 7, 3, 9, 4, 20, 1, 2}, []byte{2, 3, 4, 5})
	}
	f.Fuzz(func(t *testing.T, which byte, script, second []byte) {
		base := bases[int(which)%len(bases)]
		area := mutated(t, base, script)
		var other []byte
		if len(second) > 0 {
			other = mutated(t, base, second)
		}
		if len(area) > DefaultCopySize-binarySize || len(other) > DefaultCopySize-binarySize {
			return
		}
		checkInvariants(t, sealed(area, other, nil))
	})
}

// interesting are values at the limits of what the format allows.
var interesting = []string{
	`"0"`, `"1"`, `"dynamic"`, `"512"`, `"4096"`, `"32768"`, `"1048576"`, `"2097152"`, `"16777216"`, `"67108864"`,
	`"9223372036854775807"`, `"9223372036854775808"`, `"18446744073709551615"`, `"18446744073709551616"`, `"-1"`, `""`, `"00"`,
	`0`, `1`, `512`, `513`, `4096`, `4294967295`, `4294967296`, `-1`, `1e3`, `null`, `true`, `[]`, `{}`, `["0"]`, `["0","0"]`, `["1"]`,
	`"crypt"`, `"linear"`, `"luks2"`, `"reencrypt"`, `"pbkdf2"`, `"raw"`, `["backup-final"]`, `"a b"`, `"ä"`,
}

// mutated returns the text after a script of changes.
func mutated(t *testing.T, base string, script []byte) []byte {
	t.Helper()
	root, _, err := parseJSON([]byte(base))
	if err != nil {
		t.Fatal(err)
	}
	for ; len(script) >= 4; script = script[4:] {
		objects := containers(root, nil)
		c := objects[int(script[1])%len(objects)]
		value, _, err := parseJSON([]byte(interesting[int(script[3])%len(interesting)]))
		if err != nil {
			t.Fatal(err)
		}
		change(c, script[0], int(script[2]), value)
	}
	return appendValue(nil, root)
}

// containers returns all objects and arrays of a tree.
func containers(v *jsonValue, list []*jsonValue) []*jsonValue {
	if v.kind == jsonObject || v.kind == jsonArray {
		list = append(list, v)
	}
	for _, m := range v.members {
		list = containers(m.value, list)
	}
	for _, i := range v.items {
		list = containers(i, list)
	}
	return list
}

func change(c *jsonValue, kind byte, at int, value *jsonValue) {
	if c.kind == jsonArray {
		switch {
		case kind%3 == 0 || len(c.items) == 0:
			c.items = append(c.items, value)
		case kind%3 == 1:
			c.items = slices.Delete(slices.Clone(c.items), at%len(c.items), at%len(c.items)+1)
		default:
			c.items[at%len(c.items)] = value
		}
		return
	}
	if len(c.members) == 0 {
		c.members = append(c.members, jsonMember{"0", value})
		return
	}
	at %= len(c.members)
	switch kind % 6 {
	case 0: // another value
		c.members[at].value = value
	case 1: // removed
		c.members = slices.Delete(slices.Clone(c.members), at, at+1)
	case 2: // duplicated
		c.members = append(slices.Clone(c.members), c.members[at])
	case 3: // under another name
		c.members[at].name = strings.Trim(string(appendValue(nil, value)), `"`)
	case 4: // the values of two swapped
		other := (at + 1) % len(c.members)
		c.members[at].value, c.members[other].value = c.members[other].value, c.members[at].value
	case 5: // a copy under the next number
		c.members = append(slices.Clone(c.members), jsonMember{string('0' + byte(len(c.members)%10)), c.members[at].value})
	}
}

// FuzzBinary changes the fields of the binary headers and corrects the checksums, in the
// first copy, the second, or both.
func FuzzBinary(f *testing.F) {
	text := []byte(ourText(f))
	f.Add(uint16(offSize), uint64(16<<10), uint16(offSeqID), uint64(9), byte(3))
	f.Add(uint16(offVersion), uint64(3<<48), uint16(offLabel), uint64(1), byte(1))
	f.Add(uint16(offUUID), uint64(7), uint16(offOffset), uint64(16<<10), byte(2))
	f.Add(uint16(offMagic), uint64(0), uint16(offSize), uint64(4<<20), byte(7))
	f.Fuzz(func(t *testing.T, at uint16, v uint64, at2 uint16, v2 uint64, which byte) {
		data := sealed(text, nil, nil)
		for i := range 2 {
			if which>>i&1 == 0 {
				continue
			}
			buf := data[i*DefaultCopySize : (i+1)*DefaultCopySize]
			binary.BigEndian.PutUint64(buf[int(at)%(DefaultCopySize-8):], v)
			binary.BigEndian.PutUint64(buf[int(at2)%512&^7:], v2)
			if which>>2&1 == 0 {
				sum := checksum(buf)
				copy(buf[offChecksum:], sum[:])
			}
		}
		checkInvariants(t, data)
	})
}

// FuzzJSON compares the parser with encoding/json: what it accepts is JSON, and it reads
// its own output.
func FuzzJSON(f *testing.F) {
	for _, s := range append(slices.Clone(interesting), `{"a":[1,{"b":null}],"c":"\ud83d\ude00\n"}`, `{"a":1,"a":2}`, `[1,]`, `"\u0000"`, `01`, `-`, `1.e1`) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, used, err := parseJSON(text)
		if err != nil {
			return
		}
		if used > len(text) || !json.Valid(text[:used]) {
			t.Fatalf("took %q", text[:used])
		}
		out := appendValue(nil, v)
		again, n, err := parseJSON(out)
		if err != nil || n != len(out) || !bytes.Equal(appendValue(nil, again), out) {
			t.Fatalf("%q written as %q: %v", text[:used], out, err)
		}
	})
}
