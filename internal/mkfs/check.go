// SPDX-License-Identifier: Apache-2.0

package mkfs

import (
	"context"
	"errors"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/program"
)

// The exit status of fsck programs, fsck(8), e2fsck(8), is a sum of bits.
const (
	fsckCorrected   = 1
	fsckReboot      = 2 // corrected; returned for a mounted root
	fsckUncorrected = 4
	fsckFailed      = 8
	fsckUsage       = 16
	fsckCancelled   = 32
	fsckLibrary     = 128

	fsckKnown = fsckCorrected | fsckReboot | fsckUncorrected | fsckFailed | fsckUsage | fsckCancelled | fsckLibrary
)

var fsckArguments = map[string][]string{
	// -p repairs what is safe without asking and, without -f, only checks if the
	// superblock asks for it.
	"ext4": {"-p"},
	"f2fs": {"-a"},
	// -w writes each repair at once.
	"vfat": {"-a", "-w"},
}

// Check runs a filesystem's checker on an unmounted device, and lets it repair what it
// can without asking. repaired reports whether it did. For xfs and btrfs it does nothing:
// they are checked when they are mounted. Errors are *OptionError, or *Error around the
// program's error.
func (m Maker) Check(ctx context.Context, fstype, device string) (repaired bool, err error) {
	t, ok := typeOf(fstype)
	if !ok {
		return false, &OptionError{Type: fstype, Option: "type", Reason: "not known"}
	}
	if t.fsck == "" {
		return false, nil
	}
	op := "check " + fstype + " on " + device
	repaired, err = m.check(ctx, fstype, op, device)
	if fstype == "vfat" && repaired && err == nil {
		// fsck.vfat returns the same status for errors that it repaired and errors that
		// it only found. Only a second run distinguishes them.
		if still, err := m.check(ctx, fstype, op, device); err != nil || still {
			return false, errors.Join(err, stillDamaged(op, still))
		}
	}
	return repaired, err
}

func stillDamaged(op string, still bool) error {
	if !still {
		return nil
	}
	return &Error{Op: op, Code: fault.ProgramFailed, Reason: beyondRepair, Err: errors.New("errors are found again after the repair")}
}

const beyondRepair = "too damaged to be repaired without asking questions; run the checker by hand"

// check runs the checker once.
func (m Maker) check(ctx context.Context, fstype, op, device string) (repaired bool, err error) {
	_, fsck := Programs(fstype)
	args := append(append([]string(nil), fsckArguments[fstype]...), device)
	_, err = m.Programs.Run(ctx, fsck, args...)
	var exit *program.ExitError
	switch {
	case err == nil:
		return false, nil
	case !errors.As(err, &exit) || exit.Cause != nil || exit.Code < 0:
		return false, runError(op, err)
	case fstype == "vfat":
		return vfatOutcome(op, exit)
	}
	return outcome(op, exit)
}

// outcome reads the status of e2fsck and fsck.f2fs.
func outcome(op string, exit *program.ExitError) (repaired bool, err error) {
	repaired = exit.Code&fsckCorrected != 0
	fail := func(code fault.Code, reason string) (bool, error) {
		return repaired, &Error{Op: op, Code: code, Reason: reason, Err: exit}
	}
	switch c := exit.Code; {
	case c&^fsckKnown != 0:
		// Old versions of fsck.f2fs return -1 for every failure.
		repaired = false
		return fail(fault.ProgramFailed, "could not be checked, exit status unknown")
	case c&(fsckFailed|fsckUsage|fsckLibrary) != 0:
		return fail(fault.ProgramFailed, "could not be checked")
	case c&fsckCancelled != 0:
		return fail(fault.Interrupted, "cancelled")
	case c&fsckUncorrected != 0:
		return fail(fault.ProgramFailed, beyondRepair)
	}
	return true, nil
}

// vfatOutcome reads the status of fsck.vfat: 1 is "found errors", anything else is a
// failure.
func vfatOutcome(op string, exit *program.ExitError) (repaired bool, err error) {
	if exit.Code == 1 {
		return true, nil
	}
	return false, &Error{Op: op, Code: fault.ProgramFailed, Reason: "could not be checked", Err: exit}
}
