// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"imxcrypt/internal/fault"
)

// Error is one thing that is wrong with a configuration.
type Error struct {
	// File is the file's path, as it was given.
	File string
	// Line and Column count from 1, columns in characters; 0 where unknown.
	Line, Column int
	// Field is the path of the field, such as volumes[2].key_size; empty for
	// the file as a whole.
	Field string
	// Reason says what is wrong, Remedy what to do about it.
	Reason, Remedy string
	// Err is the cause, nil for a mistake in the file's contents.
	Err error

	code fault.Code
}

// Error is one line: place, field, reason and remedy.
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

// FaultCode is [fault.ConfigInvalid] unless the file could not be read at all.
func (e *Error) FaultCode() fault.Code {
	if e.code == "" {
		return fault.ConfigInvalid
	}
	return e.code
}

// Errors is everything that is wrong with a configuration's contents, in the
// order of the file.
type Errors struct {
	// Problems is never empty.
	Problems []*Error
	// More counts the problems beyond those kept.
	More int
}

// Error has a line for each problem.
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

// Unwrap gives the single problems to [errors.As].
func (e *Errors) Unwrap() []error {
	list := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		list[i] = p
	}
	return list
}

// FaultCode makes Errors a [fault.Coder].
func (e *Errors) FaultCode() fault.Code { return fault.ConfigInvalid }

// UnknownVolumeError says that the configuration has no volume of a name.
type UnknownVolumeError struct {
	Name string
	// Near is the name that was probably meant, or empty.
	Near string
	File string
}

func (e *UnknownVolumeError) Error() string {
	text := fmt.Sprintf("no volume %s in %s", quote(e.Name), e.File)
	if e.Near != "" {
		text += fmt.Sprintf(" (did you mean %q?)", e.Near)
	}
	return text
}

// FaultCode makes UnknownVolumeError a [fault.Coder].
func (e *UnknownVolumeError) FaultCode() fault.Code { return fault.VolumeUnknown }

// maxProblems bounds what a hostile or binary file can make us print.
const maxProblems = 50

// report collects problems.
type report struct {
	file     string
	problems []*Error
	more     int
	// bad holds the fields that something is wrong with: nothing that follows
	// from their values is worth telling.
	bad map[string]bool
}

// full tells that further problems are only counted: their words need not be
// found.
func (r *report) full() bool { return len(r.problems) >= maxProblems }

func (r *report) add(at position, field, reason, remedy string) {
	if r.full() {
		r.more++
		return
	}
	if r.bad == nil {
		r.bad = map[string]bool{}
	}
	r.bad[field] = true
	r.problems = append(r.problems, &Error{
		File: r.file, Line: at.line, Column: at.column,
		Field: field, Reason: reason, Remedy: remedy,
	})
}

// err is nil when nothing was reported.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	sort.SliceStable(r.problems, func(i, j int) bool {
		a, b := r.problems[i], r.problems[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	return &Errors{Problems: r.problems, More: r.more}
}

// quote shows a text from the file: escaped, and cut if it is long.
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
