// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"path"
	"strconv"
	"strings"
)

// validator checks a configuration whose types are right.
type validator struct {
	*report
	given  map[string]position
	config *Config
}

// problem reports a field, at its own position or, if it is not given, at that of the
// section around it. A field that was already refused is not reported again.
func (v *validator) problem(field, reason, remedy string) {
	if v.spoilt(field) {
		return
	}
	v.add(v.place(field), field, reason, remedy)
}

// spoilt reports whether the field, or a section around it, was refused already.
func (v *validator) spoilt(field string) bool {
	for ; field != ""; field = parent(field) {
		if v.bad[field] {
			return true
		}
	}
	return false
}

func (v *validator) place(field string) position {
	for ; field != ""; field = parent(field) {
		if at, ok := v.given[field]; ok {
			return at
		}
	}
	return position{file: v.files[0], line: 1, column: 1}
}

// parent returns the path without its last name or index.
func parent(field string) string { return field[:max(0, strings.LastIndexAny(field, ".["))] }

func (v *validator) has(field string) bool {
	_, ok := v.given[field]
	return ok
}

func (v *validator) run() {
	c := v.config
	v.absolute("state_dir", c.StateDir)
	v.prefix()
	v.caam()
	if !v.has("volumes") {
		v.problem("volumes", "is missing", "list the volumes, each with name and device, or write volumes: [] if there are none")
	}
	for i := range c.Volumes {
		v.volume(&c.Volumes[i], item("volumes", i))
	}
	v.distinct()
	v.lasting()
	v.cycles()
}

func (v *validator) prefix() {
	p := v.config.MappingPrefix
	if p == "" {
		return
	}
	if reason := nameProblem(p, maxPrefix); reason != "" {
		v.problem("mapping_prefix", reason, "write a short name, as in crypt-")
	}
}

func (v *validator) caam() {
	c := &v.config.CAAM
	v.word("caam.engine", string(c.Engine), string(EngineIoctl), string(EngineProgram))
	v.absolute("caam.device", c.Device)
	v.absolute("caam.program", c.Program)
	v.absolute("caam.location", c.Location)
	if c.Location == "/" {
		v.problem("caam.location", "is the root of the file system", "name the directory that caam-keygen writes to, as in /data/caam")
	}
}

const (
	maxName   = 47 // bytes in a LUKS2 label, without the NUL
	maxPrefix = 32
	// maxMapping leaves room in the 128 bytes of a device-mapper UUID for the rest of the
	// UUIDs of a rotation's mappings: "CRYPT-SUBDEV-", the volume's UUID, "-", and
	// ":rotate".
	maxMapping = 128 - 13 - 32 - 1 - 7
)

// nameProblem returns what is wrong with a volume's name, or "".
func nameProblem(name string, most int) string {
	letters := strings.Trim(wordCharacters, "_-")
	switch {
	case name == "":
		return "is empty"
	case len(name) > most:
		return quote(name) + " has " + strconv.Itoa(len(name)) + " bytes, more than " + strconv.Itoa(most)
	case !strings.Contains(letters, name[:1]):
		return quote(name) + " does not start with a letter or digit"
	}
	for _, c := range name {
		if !strings.ContainsRune(wordCharacters+".", c) {
			return quote(name) + " holds " + strconv.QuoteRune(c) + "; only A-Z, a-z, 0-9, '.', '_' and '-' are allowed"
		}
	}
	return ""
}

// word checks that the value is one of the words.
func (v *validator) word(field, value string, words ...string) bool {
	for _, w := range words {
		if w == value {
			return true
		}
	}
	reason := quote(value) + " is not one of " + strings.Join(words, ", ")
	if value == "" {
		reason = "is empty"
	}
	v.problem(field, reason, didYouMean(value, words))
	return false
}

// absolute checks that the value is an absolute path in its shortest form, so that
// paths can be compared as strings.
func (v *validator) absolute(field, value string) bool {
	switch {
	case value == "":
		v.problem(field, "is empty", "write an absolute path")
	case strings.ContainsAny(value, "\x00\n\r"):
		v.problem(field, quote(value)+" holds a character that no path should have", "write an absolute path")
	case len(value) > 4095:
		v.problem(field, "is longer than a path can be", "write a shorter one")
	case !strings.HasPrefix(value, "/"):
		v.problem(field, quote(value)+" is not an absolute path", "begin it with /")
	case path.Clean(value) != value:
		v.problem(field, quote(value)+" is not in its shortest form", "write "+path.Clean(value))
	default:
		return true
	}
	return false
}

// below reports whether name is dir or is in it. Both paths must be clean.
func below(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}
