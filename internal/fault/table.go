// SPDX-License-Identifier: Apache-2.0

package fault

// Fault is what the program needs at run time of an entry in the table of faults,
// which package manual has: `make docs` copies it from there into rows.go.
type Fault struct {
	Code Code
	Exit Exit
	// Hint is what to do next: at most two sentences, lower case, no full stop
	// at the end. Advice that destroys data (erase, --wipe) never stands in the
	// first one. It ends up in the program, so it is short. NAME stands for the volume,
	// MAPPING for its mapping and COMMAND for the command that was called; a sentence
	// with the first two is left out where no volume is known.
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
