// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"imxcrypt/internal/fault"
)

// Error is one problem in a configuration.
type Error struct {
	// File is the file's path, as given.
	File string
	// Line and Column count from 1, columns in characters; 0 if unknown.
	Line, Column int
	// Field is the path of the field, such as volumes[2].key_size; empty for
	// the file as a whole.
	Field string
	// Reason says what is wrong, Remedy what to do about it.
	Reason, Remedy string
	// Err is the cause; nil for a mistake in the file's contents.
	Err error

	code fault.Code
}

// Error returns one line: place, field, reason and remedy.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
		if e.Column > 0 {
			b.WriteString(":" + strconv.Itoa(e.Column))
		}
	}
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Reason)
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// FaultCode returns [fault.ConfigInvalid] unless the file could not be read.
func (e *Error) FaultCode() fault.Code {
	if e.code == "" {
		return fault.ConfigInvalid
	}
	return e.code
}

// Errors are all problems in a configuration's contents, in the order of its
// files and their lines.
type Errors struct {
	// Problems is never empty.
	Problems []*Error
	// More counts the problems beyond those kept.
	More int
}

// Error returns a line for each problem.
func (e *Errors) Error() string {
	lines := make([]string, 0, len(e.Problems)+1)
	for _, p := range e.Problems {
		lines = append(lines, p.Error())
	}
	if e.More > 0 {
		lines = append(lines, fmt.Sprintf("%s: and %d more", e.Problems[0].File, e.More))
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the single problems, for [errors.As].
func (e *Errors) Unwrap() []error {
	list := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		list[i] = p
	}
	return list
}

// FaultCode makes Errors a [fault.Coder].
func (e *Errors) FaultCode() fault.Code { return fault.ConfigInvalid }

// UnknownVolumeError means that the configuration has no volume of that name.
type UnknownVolumeError struct {
	Name string
	// Near is the name that was probably meant, if any.
	Near string
	// File is the configuration's name, Others the number of its other files.
	File   string
	Others int
}

func (e *UnknownVolumeError) Error() string {
	text := fmt.Sprintf("no volume %s in %s", quote(e.Name), e.File)
	if e.Others > 0 {
		text += fmt.Sprintf(" and its drop-ins (%d)", e.Others)
	}
	if e.Near != "" {
		text += fmt.Sprintf(" (did you mean %q?)", e.Near)
	}
	return text
}

// FaultCode makes UnknownVolumeError a [fault.Coder].
func (e *UnknownVolumeError) FaultCode() fault.Code { return fault.VolumeUnknown }

// maxProblems limits what a hostile or binary file can make the program print.
const maxProblems = 50

// report collects problems.
type report struct {
	// files are the files read so far, in order; the last one is being read.
	files []string
	// places maps each volume of the whole configuration to its index in its own
	// file, which is what messages use.
	places   []int
	problems []*Error
	more     int
	// bad holds the fields that were already refused: problems that follow from their
	// values are not reported.
	bad map[string]bool
}

// full reports whether further problems are only counted, so that their text is
// not needed.
func (r *report) full() bool { return len(r.problems) >= maxProblems }

// file returns the file being read.
func (r *report) file() string { return r.files[len(r.files)-1] }

// shown returns a field's path with the volume's index in its own file.
func (r *report) shown(field string) string {
	rest, ok := strings.CutPrefix(field, "volumes[")
	number, after, _ := strings.Cut(rest, "]")
	i, err := strconv.Atoi(number)
	if !ok || err != nil || i >= len(r.places) {
		return field
	}
	return item("volumes", r.places[i]) + after
}

// add reports a problem. A position without a file is in the file being read.
func (r *report) add(at position, field, reason, remedy string) {
	if r.full() {
		r.more++
		return
	}
	if r.bad == nil {
		r.bad = map[string]bool{}
	}
	r.bad[field] = true
	if at.file == "" {
		at.file = r.file()
	}
	r.problems = append(r.problems, &Error{
		File: at.file, Line: at.line, Column: at.column,
		Field: r.shown(field), Reason: reason, Remedy: remedy,
	})
}

// err returns the problems as an error, or nil if there are none.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	sort.SliceStable(r.problems, func(i, j int) bool {
		a, b := r.problems[i], r.problems[j]
		if a.File != b.File {
			return slices.Index(r.files, a.File) < slices.Index(r.files, b.File)
		}
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	return &Errors{Problems: r.problems, More: r.more}
}

// quote quotes text from the file: escaped, and truncated if it is long.
func quote(s string) string {
	const most = 60
	if len(s) <= most {
		return strconv.Quote(s)
	}
	n := most
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strconv.Quote(s[:n]) + "…"
}
