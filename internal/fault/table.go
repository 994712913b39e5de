// SPDX-License-Identifier: Apache-2.0

package fault

// Fault is the part of an entry in the table of faults that the program needs at run
// time. The whole table is in package manual; `make docs` copies this part into rows.go.
type Fault struct {
	Code Code
	Exit Exit
	// Hint is what to do next: at most two sentences, lower case, no full stop at the
	// end. Advice that destroys data (erase, --wipe) is never in the first sentence.
	// Hints are part of the program, so they are short. NAME stands for the volume,
	// MAPPING for its mapping and COMMAND for the command that was called. A sentence
	// with NAME or MAPPING is left out if no volume is known.
	Hint string
}

// Lookup returns the row of a code.
func Lookup(code Code) (Fault, bool) {
	for _, f := range Table() {
		if f.Code == code {
			return f, true
		}
	}
	return Fault{}, false
}
