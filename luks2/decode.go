// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"math"
	"slices"
	"strconv"
)

// parseArea parses a whole JSON area. As in cryptsetup, the text must begin at the first
// byte, a zero byte must end it, and only zeros may follow.
func parseArea(area []byte) (*jsonValue, error) {
	if len(area) == 0 || area[0] != '{' {
		return nil, invalid(RuleJSONStart, `the JSON area does not begin with "{"`)
	}
	root, used, err := parseJSON(area)
	if err != nil {
		return nil, err
	}
	rest := area[used:]
	if len(rest) == 0 {
		return nil, invalid(RuleJSONTerminated, "no zero byte behind the text")
	}
	if i := zeros(rest); i < len(rest) {
		return nil, invalid(RuleJSONTrailing, "byte %#02x behind the text, at byte %d", rest[i], used+i)
	}
	return root, nil
}

// zeros returns how many zero bytes b begins with. It compares blocks, since most of an
// area is zeros.
func zeros(b []byte) int {
	var zero [256]byte
	n := 0
	for len(b)-n >= len(zero) && bytes.Equal(b[n:][:len(zero)], zero[:]) {
		n += len(zero)
	}
	for n < len(b) && b[n] == 0 {
		n++
	}
	return n
}

// section is an object of the text together with its path, for messages.
type section struct {
	path string
	v    *jsonValue
	used map[string]bool
}

// newSection requires that v is an object.
func newSection(path string, v *jsonValue) (*section, error) {
	if v == nil {
		return nil, invalid(RuleMember, "%s is missing", path)
	}
	if v.kind != jsonObject {
		return nil, invalid(RuleMember, "%s is %s, not object", path, v.kind)
	}
	return &section{path: path, v: v, used: map[string]bool{}}, nil
}

// member returns the member of that name and type, which counts as known from then on.
func (s *section) member(name string, kind jsonKind) (*jsonValue, error) {
	s.used[name] = true
	v := s.v.get(name)
	if v == nil {
		return nil, invalid(RuleMember, "%s has no %q", s.path, name)
	}
	if v.kind != kind {
		return nil, invalid(RuleMember, "%q of %s is %s, not %s", name, s.path, v.kind, kind)
	}
	return v, nil
}

func (s *section) has(name string) bool { return s.v.get(name) != nil }

// string returns a text, which is never empty in a header.
func (s *section) string(name string) (string, error) {
	v, err := s.member(name, jsonString)
	if err != nil {
		return "", err
	}
	if v.text == "" {
		return "", invalid(RuleMember, "%q of %s is empty", name, s.path)
	}
	return v.text, nil
}

func (s *section) object(name string) (*section, error) {
	v, err := s.member(name, jsonObject)
	if err != nil {
		return nil, err
	}
	return newSection(s.path+"."+name, v)
}

// strings returns a list of strings; nil if it is empty.
func (s *section) strings(name string) ([]string, error) {
	v, err := s.member(name, jsonArray)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, item := range v.items {
		if item.kind != jsonString {
			return nil, invalid(RuleMember, "%q of %s holds %s, not string", name, s.path, item.kind)
		}
		list = append(list, item.text)
	}
	return list, nil
}

// uint32 returns a JSON number without fraction and exponent.
func (s *section) uint32(name string) (uint32, error) {
	v, err := s.member(name, jsonNumber)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(v.text, 10, 32)
	if err != nil {
		return 0, invalid(RuleNumber, "%q of %s is %s, not a whole number of 32 bits", name, s.path, v.text)
	}
	return uint32(n), nil
}

// decimal returns a number of 64 bits from a string, without sign or leading zeros.
func (s *section) decimal(name string) (uint64, error) {
	text, err := s.string(name)
	if err != nil {
		return 0, err
	}
	if !plainDecimal(text) {
		return 0, invalid(RuleNumber, "%q of %s is %q, not a number", name, s.path, text)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, invalid(RuleNumber, "%q of %s is %q, more than 64 bits", name, s.path, text)
	}
	return n, nil
}

// bytes returns a decimal that counts bytes of a device: it must fit int64.
func (s *section) bytes(name string) (int64, error) {
	n, err := s.decimal(name)
	if err != nil {
		return 0, err
	}
	if n > math.MaxInt64 {
		return 0, invalid(RuleNumber, "%q of %s is %d, beyond any device", name, s.path, n)
	}
	return int64(n), nil
}

// segmentBytes is bytes, except that a foreign number larger than any device is reduced
// to the largest.
func (d *decoder) segmentBytes(s *section, name string) (int64, error) {
	if d.at.kind != foreign {
		return s.bytes(name)
	}
	n, err := s.decimal(name)
	if n > math.MaxInt64 {
		n = math.MaxInt64&^(maxSector-1) + n%maxSector
	}
	return int64(n), err
}

// extra collects the members that nothing has asked for.
func (s *section) extra() Members {
	var m Members
	for _, member := range s.v.members {
		if s.used[member.name] {
			continue
		}
		if m == nil {
			m = Members{}
		}
		m[member.name] = appendValue(nil, member.value)
	}
	return m
}

// each calls fn for the numbered objects of a section.
func (s *section) each(fn func(id string, s *section) error) error {
	for _, m := range s.v.members {
		if !plainDecimal(m.name) || len(m.name) > 9 {
			return invalid(RuleIdentifier, "%s has %q, which is not a number in its plain form", s.path, m.name)
		}
		sub, err := newSection(s.path+"."+m.name, m.value)
		if err != nil {
			return err
		}
		if err := fn(m.name, sub); err != nil {
			return err
		}
	}
	return nil
}

func plainDecimal(s string) bool {
	if s == "" || len(s) > 20 || (len(s) > 1 && s[0] == '0') {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// decodeMetadata turns an area's text into Metadata, and checks everything that it says.
func decodeMetadata(area []byte, at place) (*Metadata, error) {
	root, err := parseArea(area)
	if err != nil {
		return nil, err
	}
	top, err := newSection("the header", root)
	if err != nil {
		return nil, err
	}
	d := decoder{at: at, jsonArea: int64(len(area)), md: &Metadata{
		Keyslots: map[string]Members{}, Tokens: map[string]Token{},
		Segments: map[string]Segment{}, Digests: map[string]Digest{},
	}}
	for _, step := range []struct {
		name   string
		decode func(*section) error
	}{
		{"config", d.config},
		{"keyslots", d.keyslots},
		{"segments", d.segments},
		{"tokens", d.tokens},
		{"digests", d.digests},
	} {
		s, err := top.object(step.name)
		if err != nil {
			return nil, err
		}
		s.path = step.name
		if err := step.decode(s); err != nil {
			return nil, err
		}
	}
	d.md.Extra = top.extra()
	if err := d.validate(); err != nil {
		return nil, err
	}
	return d.md, nil
}

// decoder holds what the sections need from each other.
type decoder struct {
	at       place
	jsonArea int64
	md       *Metadata
	areas    []interval // of the keyslots
}

// headerArea is the size in bytes of both copies and the keyslots area.
func (d *decoder) headerArea() int64 {
	return 2*(d.jsonArea+binarySize) + d.md.Config.KeyslotsSize
}

func (d *decoder) config(s *section) error {
	size, err := s.bytes("json_size")
	if err != nil {
		return err
	}
	if size != d.jsonArea {
		return invalid(RuleJSONSize, "json_size is %d, the area has %d bytes", size, d.jsonArea)
	}
	c := &d.md.Config
	if c.KeyslotsSize, err = s.bytes("keyslots_size"); err != nil {
		return err
	}
	if err := checkKeyslotsSize(c.KeyslotsSize); err != nil {
		return err
	}
	if s.has("flags") {
		if c.Flags, err = s.strings("flags"); err != nil {
			return err
		}
		if err := checkWords(RuleConfigFlags, "config.flags", c.Flags); err != nil && d.at.kind != foreign {
			return err
		}
	}
	if s.has("requirements") {
		r, err := s.object("requirements")
		if err != nil {
			return err
		}
		if r.has("mandatory") {
			if c.Mandatory, err = r.strings("mandatory"); err != nil {
				return err
			}
			if err := checkWords(RuleRequirements, "config.requirements.mandatory", c.Mandatory); err != nil && d.at.kind != foreign {
				return err
			}
		}
		c.RequirementsExtra = r.extra()
	}
	c.Extra = s.extra()
	return nil
}

func (d *decoder) tokens(s *section) error {
	return s.each(func(id string, s *section) error {
		var t Token
		var err error
		if t.Type, err = s.string("type"); err != nil {
			return err
		}
		if t.Keyslots, err = d.references(s, "keyslots"); err != nil {
			return err
		}
		// luks2-keyring is cryptsetup's own type; all other types are left to the
		// programs that made them.
		t.Extra = s.extra()
		if t.Type == "luks2-keyring" && d.at.kind != foreign {
			if _, err := s.string("key_description"); err != nil {
				return err
			}
		}
		d.md.Tokens[id] = t
		return nil
	})
}

func (d *decoder) digests(s *section) error {
	return s.each(func(id string, s *section) error {
		var g Digest
		var err error
		if g.Type, err = s.string("type"); err != nil {
			return err
		}
		if g.Keyslots, err = d.references(s, "keyslots"); err != nil {
			return err
		}
		if g.Segments, err = d.references(s, "segments"); err != nil {
			return err
		}
		g.Extra = s.extra()
		if g.Type == "pbkdf2" && d.at.kind != foreign {
			if err := checkPBKDF2Digest(s); err != nil {
				return err
			}
		}
		d.md.Digests[id] = g
		return nil
	})
}

// references returns a list of names of keyslots or segments, each of which must exist.
func (d *decoder) references(s *section, name string) ([]string, error) {
	list, err := s.strings(name)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool, len(list))
	if d.at.kind == foreign {
		slices.Sort(list)
		list = slices.Compact(list)
	}
	for _, id := range list {
		exists := false
		switch name {
		case "keyslots":
			_, exists = d.md.Keyslots[id]
		case "segments":
			_, exists = d.md.Segments[id]
		}
		if !exists {
			return nil, invalid(RuleReference, "%s names %q in %q, which does not exist", s.path, id, name)
		}
		if seen[id] {
			return nil, invalid(RuleReferenceTwice, "%s names %q twice in %q", s.path, id, name)
		}
		seen[id] = true
	}
	return list, nil
}

func (d *decoder) segments(s *section) error {
	return s.each(func(id string, s *section) error {
		g, err := d.segment(s)
		if err != nil {
			return err
		}
		d.md.Segments[id] = g
		return nil
	})
}

// segment decodes a segment. If a foreign one is larger than any device, its size is
// reduced.
func (d *decoder) segment(s *section) (Segment, error) {
	var g Segment
	var err error
	if g.Type, err = s.string("type"); err != nil {
		return g, err
	}
	if g.Offset, err = d.segmentBytes(s, "offset"); err != nil {
		return g, err
	}
	size, err := s.string("size")
	if err != nil {
		return g, err
	}
	if size == "dynamic" {
		g.Size = SizeDynamic
	} else {
		if g.Size, err = d.segmentBytes(s, "size"); err != nil {
			return g, err
		}
		if g.Size == 0 {
			return g, invalid(RuleSegmentBounds, "%s is empty", s.path)
		}
		if d.at.kind == foreign && g.Offset > math.MaxInt64-g.Size {
			g.Size = (math.MaxInt64-g.Offset)&^(maxSector-1) + g.Size%maxSector
			g.Size -= maxSector // the end must be a number too
		}
		if g.Offset > math.MaxInt64-g.Size {
			return g, invalid(RuleSegmentBounds, "%s ends beyond any device", s.path)
		}
	}
	if s.has("flags") {
		if g.Flags, err = s.strings("flags"); err != nil {
			return g, err
		}
	}
	unit := int64(sectorSize)
	if g.Type == SegmentCrypt {
		if unit, err = d.crypt(s, &g); err != nil {
			return g, err
		}
	}
	begin := unit
	if d.at.kind == foreign {
		begin = sectorSize
	}
	if g.Offset%begin != 0 || (g.Size != SizeDynamic && g.Size%unit != 0) {
		return g, invalid(RuleAlignment, "%s begins at %d with size %q: not whole sectors of %d bytes", s.path, g.Offset, size, unit)
	}
	g.Extra = s.extra()
	return g, nil
}

// crypt decodes what only crypt segments have, and returns the unit in bytes that the
// segment must be aligned to.
func (d *decoder) crypt(s *section, g *Segment) (int64, error) {
	var err error
	if g.IVTweak, err = s.decimal("iv_tweak"); err != nil {
		return 0, err
	}
	if g.Encryption, err = s.string("encryption"); err != nil {
		return 0, err
	}
	// The string becomes a word of a dm-crypt table.
	if !isWord(g.Encryption) && d.at.kind != foreign {
		return 0, invalid(RuleSegmentEncryption, `"encryption" of %s is %q, not one word`, s.path, g.Encryption)
	}
	n, err := s.uint32("sector_size")
	if err != nil {
		return 0, err
	}
	switch {
	case n == 512, n == 1024, n == 2048, n == maxSector:
	case d.at.kind == foreign && n != 0 && n%sectorSize == 0:
	default:
		return 0, invalid(RuleSegmentSectorSize, `"sector_size" of %s is %d, not 512, 1024, 2048 or 4096`, s.path, n)
	}
	g.SectorSize = int(n)
	if g.IVTweak%uint64(n/sectorSize) != 0 && d.at.kind != foreign {
		// dm-crypt refuses such a table.
		return 0, invalid(RuleAlignment, `"iv_tweak" of %s is %d, not a whole sector of %d bytes`, s.path, g.IVTweak, n)
	}
	if s.has("integrity") {
		v, err := newSection(s.path+".integrity", s.v.get("integrity"))
		if err != nil {
			return 0, err
		}
		for _, name := range []string{"type", "journal_encryption", "journal_integrity"} {
			if _, err := v.string(name); err != nil {
				return 0, err
			}
		}
	}
	return int64(n), nil
}
