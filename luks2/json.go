// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds of the JSON text, so that memory stays bounded whatever the bytes say (about 5
// MB in the worst case, besides the text). Real headers have a few hundred values and a
// depth of 5; the depth limit is json-c's own.
const (
	maxJSONDepth  = 32
	maxJSONValues = 1 << 15
	maxJSONNumber = 40 // characters of a number
)

type jsonKind uint8

const (
	jsonNull jsonKind = iota
	jsonFalse
	jsonTrue
	jsonNumber
	jsonString
	jsonArray
	jsonObject
)

func (k jsonKind) String() string {
	return [...]string{"null", "false", "true", "number", "string", "array", "object"}[k]
}

// jsonValue is a parsed value. encoding/json is not used for parsing: it takes the last
// of duplicate members, matches names without regard to case and replaces invalid UTF-8.
type jsonValue struct {
	kind    jsonKind
	text    string // of a string, decoded; of a number, as written
	items   []*jsonValue
	members []jsonMember // in the order of the text
}

type jsonMember struct {
	name  string
	value *jsonValue
}

// get returns the member of that name, or nil if there is none.
func (v *jsonValue) get(name string) *jsonValue {
	for i := range v.members {
		if v.members[i].name == name {
			return v.members[i].value
		}
	}
	return nil
}

type jsonParser struct {
	text   []byte
	pos    int
	values int
}

// parseJSON parses the value at the start of text and returns how many bytes
// it takes. Errors are *InvalidError.
func parseJSON(text []byte) (*jsonValue, int, error) {
	p := &jsonParser{text: text}
	v, err := p.value(1)
	return v, p.pos, err
}

func (p *jsonParser) syntax(what string) error {
	return invalid(RuleJSONSyntax, "%s at byte %d of the text", what, p.pos)
}

func (p *jsonParser) peek() byte {
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

func (p *jsonParser) space() {
	for p.pos < len(p.text) {
		switch p.text[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

func (p *jsonParser) value(depth int) (*jsonValue, error) {
	if depth > maxJSONDepth {
		return nil, invalid(RuleJSONDepth, "nested deeper than %d at byte %d of the text", maxJSONDepth, p.pos)
	}
	if p.values++; p.values > maxJSONValues {
		return nil, invalid(RuleJSONCount, "more than %d values", maxJSONValues)
	}
	switch c := p.peek(); {
	case c == '{':
		return p.object(depth)
	case c == '[':
		return p.array(depth)
	case c == '"':
		s, err := p.string()
		if err != nil {
			return nil, err
		}
		return &jsonValue{kind: jsonString, text: s}, nil
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	case c == 't':
		return p.word("true", jsonTrue)
	case c == 'f':
		return p.word("false", jsonFalse)
	case c == 'n':
		return p.word("null", jsonNull)
	}
	if p.pos >= len(p.text) || p.text[p.pos] == 0 {
		return nil, invalid(RuleJSONTerminated, "the text ends early, at byte %d", p.pos)
	}
	return nil, p.syntax("value expected")
}

func (p *jsonParser) word(w string, k jsonKind) (*jsonValue, error) {
	if len(p.text)-p.pos < len(w) || string(p.text[p.pos:p.pos+len(w)]) != w {
		return nil, p.syntax("value expected")
	}
	p.pos += len(w)
	return &jsonValue{kind: k}, nil
}

func (p *jsonParser) object(depth int) (*jsonValue, error) {
	p.pos++
	v := &jsonValue{kind: jsonObject}
	var seen map[string]struct{} // only for objects with many members
	p.space()
	if p.peek() == '}' {
		p.pos++
		return v, nil
	}
	for {
		p.space()
		if p.peek() != '"' {
			return nil, p.syntax("member name expected")
		}
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		duplicate := false
		switch {
		case seen != nil:
			_, duplicate = seen[name]
			seen[name] = struct{}{}
		default:
			duplicate = v.get(name) != nil
			if len(v.members) == 16 {
				seen = make(map[string]struct{}, 64)
				for _, m := range v.members {
					seen[m.name] = struct{}{}
				}
				seen[name] = struct{}{}
			}
		}
		if duplicate {
			return nil, invalid(RuleJSONDuplicate, "member %q twice in one object", name)
		}
		p.space()
		if p.peek() != ':' {
			return nil, p.syntax(`":" expected`)
		}
		p.pos++
		p.space()
		m, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		v.members = append(v.members, jsonMember{name, m})
		p.space()
		switch p.peek() {
		case ',':
			p.pos++
		case '}':
			p.pos++
			return v, nil
		default:
			return nil, p.syntax(`"," or "}" expected`)
		}
	}
}

func (p *jsonParser) array(depth int) (*jsonValue, error) {
	p.pos++
	v := &jsonValue{kind: jsonArray}
	p.space()
	if p.peek() == ']' {
		p.pos++
		return v, nil
	}
	for {
		p.space()
		item, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		v.items = append(v.items, item)
		p.space()
		switch p.peek() {
		case ',':
			p.pos++
		case ']':
			p.pos++
			return v, nil
		default:
			return nil, p.syntax(`"," or "]" expected`)
		}
	}
}

func (p *jsonParser) number() (*jsonValue, error) {
	start := p.pos
	digits := func() bool {
		from := p.pos
		for c := p.peek(); '0' <= c && c <= '9'; c = p.peek() {
			p.pos++
		}
		return p.pos > from
	}
	if p.peek() == '-' {
		p.pos++
	}
	if p.peek() == '0' {
		p.pos++
	} else if !digits() {
		return nil, p.syntax("digit expected")
	}
	if p.peek() == '.' {
		p.pos++
		if !digits() {
			return nil, p.syntax("digit expected")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.pos++
		if c := p.peek(); c == '+' || c == '-' {
			p.pos++
		}
		if !digits() {
			return nil, p.syntax("digit expected")
		}
	}
	if p.pos-start > maxJSONNumber {
		return nil, p.syntax("number too long")
	}
	return &jsonValue{kind: jsonNumber, text: string(p.text[start:p.pos])}, nil
}

func (p *jsonParser) string() (string, error) {
	p.pos++
	start := p.pos
	// Most strings have no escapes: one pass, one copy.
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		if c == '"' {
			s := p.text[start:p.pos]
			if !utf8.Valid(s) {
				return "", p.syntax("string is not UTF-8")
			}
			p.pos++
			return string(s), nil
		}
		if c == '\\' || c < 0x20 {
			break
		}
		p.pos++
	}
	out := append([]byte(nil), p.text[start:p.pos]...)
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		switch {
		case c == '"':
			if !utf8.Valid(out) {
				return "", p.syntax("string is not UTF-8")
			}
			p.pos++
			return string(out), nil
		case c < 0x20:
			if c == 0 {
				return "", invalid(RuleJSONTerminated, "the text ends within a string, at byte %d", p.pos)
			}
			return "", p.syntax("control character in a string")
		case c == '\\':
			p.pos++
			var err error
			if out, err = p.escape(out); err != nil {
				return "", err
			}
		default:
			out = append(out, c)
			p.pos++
		}
	}
	return "", invalid(RuleJSONTerminated, "the text ends within a string")
}

// escape decodes what follows a backslash.
func (p *jsonParser) escape(out []byte) ([]byte, error) {
	c := p.peek()
	p.pos++
	switch c {
	case '"', '\\', '/':
		return append(out, c), nil
	case 'b':
		return append(out, '\b'), nil
	case 'f':
		return append(out, '\f'), nil
	case 'n':
		return append(out, '\n'), nil
	case 'r':
		return append(out, '\r'), nil
	case 't':
		return append(out, '\t'), nil
	case 'u':
		r, err := p.hex4()
		if err != nil {
			return nil, err
		}
		if utf16.IsSurrogate(r) {
			if p.peek() != '\\' || p.pos+1 >= len(p.text) || p.text[p.pos+1] != 'u' {
				return nil, p.syntax("half a surrogate pair")
			}
			p.pos += 2
			low, err := p.hex4()
			if err != nil {
				return nil, err
			}
			if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
				return nil, p.syntax("broken surrogate pair")
			}
		}
		if r == 0 {
			// Readers in C see the string end here.
			return nil, p.syntax("zero byte in a string")
		}
		return utf8.AppendRune(out, r), nil
	}
	return nil, p.syntax("unknown escape")
}

func (p *jsonParser) hex4() (rune, error) {
	if len(p.text)-p.pos < 4 {
		return 0, p.syntax("four hexadecimal digits expected")
	}
	n, err := strconv.ParseUint(string(p.text[p.pos:p.pos+4]), 16, 16)
	if err != nil {
		return 0, p.syntax("four hexadecimal digits expected")
	}
	p.pos += 4
	return rune(n), nil
}
