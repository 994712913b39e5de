// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"bytes"
	"fmt"
	"strings"

	"imxcrypt/internal/devnum"
)

// maxTableText limits the text of a table, like the read-back from the kernel.
const maxTableText = 1 << 20

// ParseTable parses dmsetup's notation, one target per line. It accepts what the kernel
// echoes, which is more than Validate does: options that we do not use are an error,
// targets that we do not use become [Unknown], and a key in the clear becomes a [KeyRef]
// marked as such, without the key. No error quotes a line, which might hold a key.
func ParseTable(text string) (Table, error) { return parseTable([]byte(text)) }

func parseTable(text []byte) (Table, error) {
	if len(text) > maxTableText {
		return nil, invalid(fmt.Errorf("table of %d bytes is longer than %d", len(text), maxTableText))
	}
	var t Table
	for n, line := range bytes.Split(text, []byte{'\n'}) {
		fields := asciiFields(line)
		if len(fields) == 0 {
			continue
		}
		if len(t) == maxTargets {
			return nil, invalid(fmt.Errorf("table has more than %d targets", maxTargets))
		}
		if len(fields) < 3 {
			return nil, invalid(fmt.Errorf("line %d: a target is start, length, name and parameters", n+1))
		}
		start, err := devnum.ParseDecimal(string(fields[0]), maxSectors)
		if err != nil {
			return nil, invalid(fmt.Errorf("line %d: start: %w", n+1, err))
		}
		length, err := devnum.ParseDecimal(string(fields[1]), maxSectors)
		if err != nil {
			return nil, invalid(fmt.Errorf("line %d: length: %w", n+1, err))
		}
		target, err := parseTarget(start, length, string(fields[2]), fields[3:])
		if err != nil {
			return nil, invalid(fmt.Errorf("line %d: %w", n+1, err))
		}
		t = append(t, target)
	}
	if len(t) == 0 {
		return nil, invalid(fmt.Errorf("table is empty"))
	}
	return t, nil
}

// asciiFields splits only at blanks, tabs and carriage returns: device-mapper knows no
// other white space.
func asciiFields(line []byte) [][]byte {
	return bytes.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' })
}

// maxKind is DM_MAX_TYPE_NAME without its NUL.
const maxKind = 15

func parseTarget(start, length uint64, kind string, params [][]byte) (Target, error) {
	if length == 0 {
		return nil, fmt.Errorf("%s: length is zero", clip(kind))
	}
	switch kind {
	case "crypt":
		return parseCrypt(start, length, params)
	case "linear":
		device, offset, rest, err := parseDevice(params)
		if err == nil && len(rest) != 0 {
			err = fmt.Errorf("%d parameters too many", len(rest))
		}
		if err != nil {
			return nil, fmt.Errorf("linear: %w", err)
		}
		return Linear{Start: start, Length: length, Device: device, Offset: offset}, nil
	case "error", "zero":
		if len(params) != 0 {
			return nil, fmt.Errorf("%s: takes no parameters", kind)
		}
		if kind == "error" {
			return Fail{start, length}, nil
		}
		return Zero{start, length}, nil
	case "flakey":
		return parseFlakey(start, length, params)
	case "delay":
		if x, ok := parseDelay(start, length, params); ok {
			return x, nil
		}
	}
	if len(kind) > maxKind || !printable(kind) {
		return nil, fmt.Errorf("target %q is not a valid name", clip(kind))
	}
	return Unknown{Start: start, Length: length, Name: kind}, nil
}

// parseCrypt reads cipher, key, iv offset, device, offset and options.
func parseCrypt(start, length uint64, p [][]byte) (Target, error) {
	if len(p) < 5 {
		return nil, fmt.Errorf("crypt: %d parameters, at least 5 are needed", len(p))
	}
	c := Crypt{Start: start, Length: length, Cipher: Cipher(p[0])}
	if len(p[0]) > maxCipher || !printable(string(p[0])) {
		return nil, fmt.Errorf("crypt: cipher %q is too long or not printable", clip(string(p[0])))
	}
	var err error
	if c.Key, err = parseKey(p[1]); err != nil {
		return nil, fmt.Errorf("crypt: %w", err)
	}
	if c.IVOffset, err = devnum.ParseDecimal(string(p[2]), 1<<64-1); err != nil {
		return nil, fmt.Errorf("crypt: iv offset: %w", err)
	}
	var rest [][]byte
	if c.Device, c.Offset, rest, err = parseDevice(p[3:]); err != nil {
		return nil, fmt.Errorf("crypt: %w", err)
	}
	options, err := parseOptions(rest)
	if err != nil {
		return nil, fmt.Errorf("crypt: %w", err)
	}
	if c.Options, err = canonical(options); err != nil {
		return nil, fmt.Errorf("crypt: %w", err)
	}
	return c, nil
}

// parseDelay reads a table of the kind that Delay stands for. ok is false for any other,
// which is someone else's.
func parseDelay(start, length uint64, p [][]byte) (x Delay, ok bool) {
	var places [3]struct {
		device Number
		offset uint64
	}
	for i := range places {
		var err error
		if places[i].device, places[i].offset, p, err = parseDevice(p); err != nil || len(p) == 0 || string(p[0]) != "0" {
			return x, false
		}
		p = p[1:]
	}
	x = Delay{start, length, places[1].device, places[1].offset, places[2].device, places[2].offset}
	return x, len(p) == 0 && places[0] == places[1]
}

func parseFlakey(start, length uint64, p [][]byte) (Target, error) {
	f := Flakey{Start: start, Length: length}
	var rest [][]byte
	var err error
	if f.Device, f.Offset, rest, err = parseDevice(p); err != nil {
		return nil, fmt.Errorf("flakey: %w", err)
	}
	if len(rest) < 2 {
		return nil, fmt.Errorf("flakey: the intervals are missing")
	}
	for i, interval := range []*uint32{&f.Up, &f.Down} {
		n, err := devnum.ParseDecimal(string(rest[i]), 1<<32-1)
		if err != nil {
			return nil, fmt.Errorf("flakey: interval: %w", err)
		}
		*interval = uint32(n)
	}
	if f.Options, err = parseOptions(rest[2:]); err != nil {
		return nil, fmt.Errorf("flakey: %w", err)
	}
	return f, nil
}

// parseDevice reads a device's number and an offset on it.
func parseDevice(p [][]byte) (n Number, offset uint64, rest [][]byte, err error) {
	if len(p) < 2 {
		return n, 0, nil, fmt.Errorf("device and offset are missing")
	}
	if n, err = devnum.Parse(clip(string(p[0]))); err != nil {
		return n, 0, nil, err
	}
	if offset, err = devnum.ParseDecimal(string(p[1]), maxSectors); err != nil {
		return n, 0, nil, fmt.Errorf("offset: %w", err)
	}
	return n, offset, p[2:], nil
}

// parseOptions parses a count and that many words; an empty list has no options.
func parseOptions(p [][]byte) ([]string, error) {
	if len(p) == 0 {
		return nil, nil
	}
	n, err := devnum.ParseDecimal(string(p[0]), uint64(len(p)-1))
	if err != nil || int(n) != len(p)-1 {
		return nil, fmt.Errorf("the count of options does not match the %d that follow", len(p)-1)
	}
	var options []string
	for _, o := range p[1:] {
		if !printable(string(o)) {
			return nil, fmt.Errorf("option %q is not printable", clip(string(o)))
		}
		options = append(options, strings.Clone(string(o)))
	}
	return options, nil
}
