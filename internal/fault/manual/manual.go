// SPDX-License-Identifier: Apache-2.0

// Package manual is the table of faults: one literal for each code. `make docs` makes
// of it the troubleshooting page, and the rows that the program needs at run time
// ([fault.Table]). The program does not import this package, so that it does not
// carry the prose of the page.
package manual

import (
	"regexp"
	"slices"
	"strings"

	"imxcrypt/internal/fault"
)

// Entry describes one fault. All but the hint is Markdown.
type Entry struct {
	Code fault.Code
	Exit fault.Exit
	// Meaning is one sentence.
	Meaning string
	// Messages are those that are put together at run time, with … for what
	// varies. Messages that stand in the sources as they are shown are found
	// there, and need not be listed.
	Messages []string
	// Cause explains more than the meaning does, where there is more to say.
	Cause string
	// Hint is what to do: what the program prints below the message, and the page
	// begins its remedy with. See [fault.Fault] for its form.
	Hint string
	// More is what the page says beyond the hint, in whole sentences.
	More string
}

// Remedy is what the troubleshooting page says of what to do.
func (e Entry) Remedy() string {
	text := e.Hint
	if c := text[:1]; !strings.HasPrefix(text, "tk(") {
		text = strings.ToUpper(c) + text[1:]
	}
	text = regexp.MustCompile(`docs/([a-z]+\.md)`).ReplaceAllString(text, "[$1]($1)")
	text = strings.NewReplacer("COMMAND", "imxcrypt COMMAND", "MAPPING", "NAME").Replace(text) + "."
	if e.More != "" {
		text += " " + e.More
	}
	return text
}

// Entries returns one entry for each code, in the order of the troubleshooting page.
func Entries() []Entry {
	return slices.Concat(usage(), keys(), missing(), busy(), refused(), interrupted(), headers(), others())
}
