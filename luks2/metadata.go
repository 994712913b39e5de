// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sort"
	"strings"
)

// Metadata is the content of the JSON area. The keys of its maps are numbers in decimal
// without leading zeros. Members that this package does not know are kept in the Extra
// fields and written back.
type Metadata struct {
	// Keyslots are cryptsetup's: kept and checked, but never made here.
	Keyslots map[string]Members
	Tokens   map[string]Token
	Segments map[string]Segment
	Digests  map[string]Digest
	Config   Config
	Extra    Members
}

// Token binds something outside the header, usually a key, to keyslots.
type Token struct {
	Type     string
	Keyslots []string
	Extra    Members
}

// Digest proves that a key is the right one for its segments.
type Digest struct {
	Type               string
	Keyslots, Segments []string
	Extra              Members
}

// Segment types and flags of the specification. Segments of other types are kept and must
// follow the rules that all types share.
const (
	SegmentCrypt  = "crypt"
	SegmentLinear = "linear"

	FlagInReencryption = "in-reencryption"
	flagBackupPrefix   = "backup-"
)

// SizeDynamic as a segment's size means from its offset to the end of the device.
const SizeDynamic int64 = -1

// Segment is one range of the device.
type Segment struct {
	Type string
	// Offset and Size are in bytes; Size may be SizeDynamic.
	Offset, Size int64
	// The following are for crypt segments.
	IVTweak    uint64 // number of the first IV, in units of 512 bytes
	Encryption string // in dm-crypt's notation
	SectorSize int    // in bytes: 512, 1024, 2048 or 4096

	Flags []string
	Extra Members
}

// Backup reports whether the segment only remembers a state before or after a
// re-encryption, and holds no data itself.
func (s Segment) Backup() bool {
	return slices.ContainsFunc(s.Flags, func(f string) bool { return strings.HasPrefix(f, flagBackupPrefix) })
}

// End returns the first byte behind the segment. For a segment of dynamic size that is
// the given size of the device in bytes.
func (s Segment) End(deviceSize int64) int64 {
	if s.Size == SizeDynamic {
		return deviceSize
	}
	return s.Offset + s.Size
}

// Config applies to the container as a whole.
type Config struct {
	// KeyslotsSize is the size in bytes of the area behind the two copies, a
	// multiple of 4096, at most 128 MiB.
	KeyslotsSize int64
	Flags        []string
	// Mandatory are the requirements that a reader must know; see
	// [Header.Require].
	Mandatory         []string
	RequirementsExtra Members
	Extra             Members
}

// SegmentIDs returns the segments' names in the order of their numbers. That need not be
// their order on the device, and backup segments are included.
func (m *Metadata) SegmentIDs() []string { return sortedIDs(m.Segments) }

// TokensOfType returns the names of the tokens of that type, in the order of their
// numbers.
func (m *Metadata) TokensOfType(typ string) []string {
	return slices.DeleteFunc(sortedIDs(m.Tokens), func(id string) bool { return m.Tokens[id].Type != typ })
}

// DigestsOf returns the names of the digests of a segment, in the order of their numbers.
func (m *Metadata) DigestsOf(segment string) []string {
	return slices.DeleteFunc(sortedIDs(m.Digests), func(id string) bool {
		return !slices.Contains(m.Digests[id].Segments, segment)
	})
}

// sortedIDs sorts numbers in decimal: the shorter one is the smaller one.
func sortedIDs[T any](m map[string]T) []string {
	ids := make([]string, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	sortIDs(ids)
	return ids
}

// sortIDs is apart from sortedIDs so that it is compiled once.
func sortIDs(ids []string) {
	sort.Slice(ids, func(i, j int) bool {
		if len(ids[i]) != len(ids[j]) {
			return len(ids[i]) < len(ids[j])
		}
		return ids[i] < ids[j]
	})
}

// Members are members of a JSON object, each with the JSON text of its value.
type Members map[string]json.RawMessage

// Decode fills the fields of the struct that v points to from the members that their
// `json:"name"` tags name. Names must match exactly, including case, which encoding/json
// ignores. Fields without a member are left alone, members without a field are ignored.
// The error names the member.
func (m Members) Decode(v any) error {
	_, err := m.decode(v, false)
	return err
}

// DecodeStrict is Decode, but every member must have a field, including those of the
// structs that fields point to. It does not build the tables that encoding/json has for a
// struct, which for a header's few members take longer than everything else.
func (m Members) DecodeStrict(v any) error {
	known, err := m.decode(v, true)
	if err != nil || known == len(m) {
		return err
	}
	fields := map[string]bool{}
	for i := range reflect.TypeOf(v).Elem().NumField() {
		fields[tagName(reflect.TypeOf(v).Elem().Field(i))] = true
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if name == "" || !fields[name] {
			return fmt.Errorf("unknown member %q", name)
		}
	}
	return nil
}

// decode counts the members that have a field.
func (m Members) decode(v any, strict bool) (known int, err error) {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.Elem().Kind() != reflect.Struct {
		return 0, fmt.Errorf("decode members into %T: want a pointer to a struct", v)
	}
	rv = rv.Elem()
	for i := range rv.NumField() {
		name := tagName(rv.Type().Field(i))
		raw, ok := m[name]
		if name == "" || !ok {
			continue
		}
		known++
		field := rv.Field(i)
		if strict && field.Kind() == reflect.Pointer && field.Type().Elem().Kind() == reflect.Struct {
			err = decodeInner(raw, field)
		} else {
			err = json.Unmarshal(raw, field.Addr().Interface())
		}
		if err != nil {
			return known, fmt.Errorf("member %q: %w", name, err)
		}
	}
	return known, nil
}

// decodeInner decodes an object into a new struct that the field then points to;
// null leaves it nil.
func decodeInner(raw json.RawMessage, field reflect.Value) error {
	var inner Members
	if err := json.Unmarshal(raw, &inner); err != nil || inner == nil {
		return err
	}
	field.Set(reflect.New(field.Type().Elem()))
	return inner.DecodeStrict(field.Interface())
}

// Set adds the members of v, a struct or map that encoding/json can write, or replaces
// them. Members that v does not have are kept.
func (m *Members) Set(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	parsed, _, err := parseJSON(text)
	if err != nil {
		return err
	}
	if parsed.kind != jsonObject {
		return fmt.Errorf("set members from %T: want an object", v)
	}
	if *m == nil {
		*m = Members{}
	}
	for _, member := range parsed.members {
		(*m)[member.name] = appendValue(nil, member.value)
	}
	return nil
}

func tagName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" || !f.IsExported() {
		return ""
	}
	return name
}

func (m Members) clone() Members {
	if m == nil {
		return nil
	}
	c := make(Members, len(m))
	for n, raw := range m {
		c[n] = slices.Clone(raw)
	}
	return c
}

// Clone returns a deep copy.
func (m *Metadata) Clone() Metadata {
	c := Metadata{
		Keyslots: make(map[string]Members, len(m.Keyslots)),
		Tokens:   make(map[string]Token, len(m.Tokens)),
		Segments: make(map[string]Segment, len(m.Segments)),
		Digests:  make(map[string]Digest, len(m.Digests)),
		Config:   m.Config,
		Extra:    m.Extra.clone(),
	}
	for id, k := range m.Keyslots {
		c.Keyslots[id] = k.clone()
	}
	for id, t := range m.Tokens {
		t.Keyslots, t.Extra = slices.Clone(t.Keyslots), t.Extra.clone()
		c.Tokens[id] = t
	}
	for id, s := range m.Segments {
		s.Flags, s.Extra = slices.Clone(s.Flags), s.Extra.clone()
		c.Segments[id] = s
	}
	for id, d := range m.Digests {
		d.Keyslots, d.Segments, d.Extra = slices.Clone(d.Keyslots), slices.Clone(d.Segments), d.Extra.clone()
		c.Digests[id] = d
	}
	c.Config.Flags, c.Config.Mandatory = slices.Clone(m.Config.Flags), slices.Clone(m.Config.Mandatory)
	c.Config.Extra, c.Config.RequirementsExtra = m.Config.Extra.clone(), m.Config.RequirementsExtra.clone()
	return c
}
