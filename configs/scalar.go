// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// scalar reads a single value as its field's kind and no other: in YAML 123 is a number,
// on is a string, 0x20 and 1_000 are numbers, and 2024-01-01 is a date, which is seldom
// what was meant. Sizes and durations stay strings here; the decoding hook converts them.
func (r *reader) scalar(n *yaml.Node, k kind, where string) any {
	if n.Kind != yaml.ScalarNode {
		r.add(positionOf(n), where, "is "+describe(n)+", not "+kindName(k), "write one value")
		return nil
	}
	switch k {
	case kindBool:
		if n.Tag == "!!bool" && (n.Value == "true" || n.Value == "false") {
			return n.Value == "true"
		}
		r.add(positionOf(n), where, "is "+describe(n)+", not true or false", boolRemedy(n.Value))
	case kindInt:
		if v, err := strconv.Atoi(n.Value); err == nil && n.Tag == "!!int" && strconv.Itoa(v) == n.Value {
			return v
		}
		r.add(positionOf(n), where, "is "+describe(n)+", not a whole number", intRemedy(n.Value))
	case kindSize:
		if _, err := ParseSize(n.Value); err == nil && n.Tag == "!!str" {
			return n.Value
		} else if err != nil {
			remedy := sizeRemedy(n.Value)
			if errors.Is(err, errSizeRange) {
				remedy = "write a smaller one"
			}
			r.add(positionOf(n), where, "is "+describe(n)+": "+err.Error(), remedy)
		} else {
			r.add(positionOf(n), where, "is "+describe(n)+", not a size", "")
		}
	case kindDuration:
		if _, err := parseDuration(n.Value); err == nil {
			return n.Value
		} else {
			r.add(positionOf(n), where, "is "+describe(n)+": "+err.Error(), durationRemedy(n.Value))
		}
	default:
		if n.Tag == "!!str" {
			return n.Value
		}
		r.add(positionOf(n), where, "is "+describe(n)+", not a text", "put it in quotes: \""+quoteless(n.Value)+"\"")
	}
	return nil
}

func kindName(k kind) string {
	switch k {
	case kindBool:
		return "true or false"
	case kindInt:
		return "a whole number"
	case kindSize:
		return "a size"
	case kindDuration:
		return "a duration"
	default:
		return "a text"
	}
}

func boolRemedy(text string) string {
	switch strings.ToLower(text) {
	case "yes", "y", "on", "true", "1":
		return "write true"
	case "no", "n", "off", "false", "0":
		return "write false"
	}
	return "write true or false, without quotes"
}

func intRemedy(text string) string {
	if n, err := strconv.ParseInt(strings.TrimSpace(text), 0, 32); err == nil {
		return "write " + strconv.FormatInt(n, 10)
	}
	return "write digits only, without quotes"
}

// sizeRemedy proposes the size that was probably meant: bytes without a unit, or
// a misspelled unit.
func sizeRemedy(text string) string {
	number := strings.TrimRight(strings.TrimSpace(text), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text), number))
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 {
		return "write it as 1MiB"
	}
	if unit == "" && n%grain != 0 {
		return "write its unit, as in " + strconv.FormatInt(n, 10) + "MiB"
	}
	if unit == "" {
		return "write " + formatSize(n)
	}
	for _, u := range sizeUnits {
		if strings.EqualFold(unit[:1], u.name[:1]) {
			return "write " + strconv.FormatInt(n, 10) + u.name
		}
	}
	return "write it as 1MiB"
}

func durationRemedy(text string) string {
	text = strings.TrimSpace(text)
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return "write " + strconv.FormatUint(n, 10) + "s for seconds"
	}
	return "write it as 10s"
}
