// SPDX-License-Identifier: Apache-2.0

// Package manual is the part of the table of faults that only the documentation
// needs: what a fault means, how its messages read and what to do about it. The
// program does not import it, so that it does not carry this prose.
package manual

import (
	"slices"

	"imxcrypt/internal/fault"
)

// Entry describes one fault, in Markdown.
type Entry struct {
	Code fault.Code
	// Meaning is one sentence.
	Meaning string
	// Messages are those that are put together at run time, with … for what
	// varies. Messages that stand in the sources as they are shown are found
	// there, and need not be listed.
	Messages []string
	// Cause explains more than the meaning does, where there is more to say.
	Cause string
	// Remedy is one or more sentences.
	Remedy string
}

// Entries returns one entry for each code, in the order of [fault.Table].
func Entries() []Entry {
	return slices.Concat(usage(), keys(), missing(), busy(), refused(), interrupted(), headers(), others())
}
