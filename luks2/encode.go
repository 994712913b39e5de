// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
)

// appendValue writes a value in the one form this package writes: no white space, members
// sorted by name, numbers as they were, and only those characters escaped that must be.
func appendValue(out []byte, v *jsonValue) []byte {
	switch v.kind {
	case jsonNumber:
		return append(out, v.text...)
	case jsonString:
		return appendString(out, v.text)
	case jsonArray:
		out = append(out, '[')
		for i, item := range v.items {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendValue(out, item)
		}
		return append(out, ']')
	case jsonObject:
		members := slices.Clone(v.members)
		sort.Slice(members, func(i, j int) bool { return members[i].name < members[j].name })
		out = append(out, '{')
		for i, m := range members {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendString(out, m.name)
			out = append(out, ':')
			out = appendValue(out, m.value)
		}
		return append(out, '}')
	}
	return append(out, v.kind.String()...)
}

func appendString(out []byte, s string) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c < 0x20:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}

// objectWriter writes the members of one object in the order of the calls.
type objectWriter struct {
	out   []byte
	first bool
	names map[string]bool
	err   error
}

func openObject(out []byte) *objectWriter {
	return &objectWriter{out: append(out, '{'), first: true, names: map[string]bool{}}
}

func (w *objectWriter) name(n string) {
	if w.names[n] && w.err == nil {
		w.err = invalid(RuleJSONDuplicate, "member %q twice in one object", n)
	}
	w.names[n] = true
	if !w.first {
		w.out = append(w.out, ',')
	}
	w.first = false
	w.out = append(appendString(w.out, n), ':')
}

func (w *objectWriter) string(n, s string) {
	w.name(n)
	w.out = appendString(w.out, s)
}

// decimal writes a number as the format requires for 64-bit numbers: as a string.
func (w *objectWriter) decimal(n string, v int64) { w.string(n, strconv.FormatInt(v, 10)) }

func (w *objectWriter) strings(n string, list []string) {
	w.name(n)
	w.out = append(w.out, '[')
	for i, s := range list {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		w.out = appendString(w.out, s)
	}
	w.out = append(w.out, ']')
}

func (w *objectWriter) raw(n string, raw json.RawMessage) {
	w.name(n)
	v, used, err := parseJSON(raw)
	if err == nil && used != len(raw) {
		err = invalid(RuleJSONTrailing, "member %q has text behind its value", n)
	}
	if err != nil {
		if w.err == nil {
			w.err = fmt.Errorf("member %q: %w", n, err)
		}
		return
	}
	w.out = appendValue(w.out, v)
}

func (w *objectWriter) extra(m Members) {
	for _, n := range slices.Sorted(maps.Keys(m)) {
		w.raw(n, m[n])
	}
}

func (w *objectWriter) object(n string, write func(*objectWriter)) {
	w.name(n)
	inner := openObject(w.out)
	write(inner)
	w.out = append(inner.out, '}')
	if w.err == nil {
		w.err = inner.err
	}
}

// objects writes a map of numbered objects in the order of their numbers.
func objects[T any](w *objectWriter, n string, m map[string]T, write func(*objectWriter, T)) {
	w.object(n, func(w *objectWriter) {
		for _, id := range sortedIDs(m) {
			w.object(id, func(w *objectWriter) { write(w, m[id]) })
		}
	})
}

// encode returns the JSON text of the metadata: always the same for the same content.
func (m *Metadata) encode(jsonArea int64) ([]byte, error) {
	w := openObject(make([]byte, 0, 4096))
	objects(w, "keyslots", m.Keyslots, func(w *objectWriter, k Members) { w.extra(k) })
	objects(w, "tokens", m.Tokens, func(w *objectWriter, t Token) {
		w.string("type", t.Type)
		w.strings("keyslots", t.Keyslots)
		w.extra(t.Extra)
	})
	objects(w, "segments", m.Segments, func(w *objectWriter, s Segment) { s.encode(w) })
	objects(w, "digests", m.Digests, func(w *objectWriter, d Digest) {
		w.string("type", d.Type)
		w.strings("keyslots", d.Keyslots)
		w.strings("segments", d.Segments)
		w.extra(d.Extra)
	})
	w.object("config", func(w *objectWriter) {
		w.decimal("json_size", jsonArea)
		w.decimal("keyslots_size", m.Config.KeyslotsSize)
		if len(m.Config.Flags) > 0 {
			w.strings("flags", m.Config.Flags)
		}
		if len(m.Config.Mandatory) > 0 || len(m.Config.RequirementsExtra) > 0 {
			w.object("requirements", func(w *objectWriter) {
				if len(m.Config.Mandatory) > 0 {
					w.strings("mandatory", m.Config.Mandatory)
				}
				w.extra(m.Config.RequirementsExtra)
			})
		}
		w.extra(m.Config.Extra)
	})
	w.extra(m.Extra)
	if w.err != nil {
		return nil, w.err
	}
	return append(w.out, '}'), nil
}

func (s Segment) encode(w *objectWriter) {
	w.string("type", s.Type)
	w.decimal("offset", s.Offset)
	if s.Size == SizeDynamic {
		w.string("size", "dynamic")
	} else {
		w.decimal("size", s.Size)
	}
	if s.Type == SegmentCrypt {
		w.string("iv_tweak", strconv.FormatUint(s.IVTweak, 10))
		w.string("encryption", s.Encryption)
		w.name("sector_size")
		w.out = strconv.AppendInt(w.out, int64(s.SectorSize), 10)
	}
	if len(s.Flags) > 0 {
		w.strings("flags", s.Flags)
	}
	w.extra(s.Extra)
}
