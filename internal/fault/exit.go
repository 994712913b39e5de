// SPDX-License-Identifier: Apache-2.0

package fault

// Exit is an exit code of the program. Scripts and units act on it, so a number
// never changes its meaning.
type Exit int

const (
	ExitDone Exit = iota
	ExitFailed
	ExitUsage
	ExitKeyRejected
	ExitMissing
	ExitBusy
	ExitRefused
	ExitInterrupted
	ExitHeaderDamaged
)

// String is the meaning of the exit code, as help and manual pages show it.
func (e Exit) String() string {
	switch e {
	case ExitDone:
		return "done"
	case ExitUsage:
		return "usage or configuration"
	case ExitKeyRejected:
		return "key rejected (wrong chip, wrong security state, damaged blob)"
	case ExitMissing:
		return "device or kernel support missing"
	case ExitBusy:
		return "busy"
	case ExitRefused:
		return "refused to protect data"
	case ExitInterrupted:
		return "interrupted, the next run continues"
	case ExitHeaderDamaged:
		return "header damaged or missing"
	}
	return "failed"
}

// ExitOf returns the exit code for err. An error without a code in the table gets
// [ExitFailed].
func ExitOf(err error) Exit {
	if err == nil {
		return ExitDone
	}
	if f, ok := Lookup(CodeOf(err)); ok {
		return f.Exit
	}
	return ExitFailed
}
