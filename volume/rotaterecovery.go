// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// A rotation makes another key, so it can add and remove recovery copies or make them for
// others. What it is not asked to change stays as it is, as far as possible.

// requestedCopies returns the recovery copies that this run was asked for.
func (x *rotating) requestedCopies() copies { return copies{x.o.Recipients, x.o.Passphrase} }

// copies returns the recovery copies that the new key gets.
func (x *rotating) copies() (copies, error) {
	had := x.h.Token.Recovery
	switch {
	case x.o.NoRecovery || x.requestedCopies().any() || !had.Made() || x.s.Source != spec.SourceCAAM:
		return x.requestedCopies(), nil
	case x.c.Detached():
		return copies{}, fault.Newf(fault.DeviceUnsuitable, "nothing proves the recipients that stand in the detached header %s: a new key is not sealed to them; give --recipient, --recovery-passphrase or --no-recovery", x.s.Header)
	case had.ByPassphrase():
		return copies{}, fault.Newf(fault.Usage, "the old key has a recovery copy for a passphrase, which is stored nowhere: say what the new key gets, with --recovery-passphrase (another one), --recipient or --no-recovery")
	}
	return copies{recipients: had.Recipients}, nil
}

// checkRequestedCopies enforces that a rotation under way has the recovery copies that
// this run was asked for, if any: its key exists already.
func (x *rotating) checkRequestedCopies() error {
	if !x.o.NoRecovery && !x.requestedCopies().any() {
		return nil
	}
	has := x.h.Next.Token.Recovery
	if !x.requestedCopies().asIn(has) {
		return fault.Newf(fault.RotationUnderWay, "the key of the rotation under way was made with other recovery copies than are asked for now")
	}
	if has.ByPassphrase() {
		x.j.warn("the recovery passphrase is the one that was shown when this rotation began")
	}
	return nil
}

// sameCopies enforces that the key that replaces a dropped one gets the recovery copies
// that the dropped key was to have. Nothing proved those, so they are not taken over.
func (x *rotating) sameCopies(dropped header.Recovery) error {
	want, err := x.copies()
	if err == nil && !want.asIn(dropped) {
		err = fault.Newf(fault.Usage, "the new key of the interrupted rotation was never proved, and another one would have other recovery copies: give the same --recipient, --recovery-passphrase or --no-recovery again")
	}
	return err
}
