// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"crypto/sha256"
	"errors"
)

// moveInPlace moves a zone that is overwritten: journal, record, copy, record.
func (e *Engine) moveInPlace(z Zone) error {
	digest, err := e.saveZone(z)
	if err != nil {
		return err
	}
	journaled := e.record
	journaled.Phase, journaled.Zone, journaled.Digest = Journaled, z.Length, digest
	if err := e.commit(journaled, z); err != nil {
		return err
	}
	err = e.copyZone(z)
	if err == nil {
		err = e.commit(e.moved(z), z)
	}
	if err == nil || undecided(err) {
		return err
	}
	if uerr := e.undo(); uerr != nil {
		return &UnsettledError{Zone: z, Err: errors.Join(err, uerr)}
	}
	return err
}

// saveZone keeps the zone's old ciphertext in the journal, durably.
func (e *Engine) saveZone(z Zone) (digest [sha256.Size]byte, err error) {
	h := sha256.New()
	r := route{
		from: Raw, fromOff: e.layout.OldOffset + z.Start, to: Meta, toOff: e.layout.JournalOffset,
		length: z.Length, digest: h,
	}
	if err := e.copier.run(r); err != nil {
		return digest, err
	}
	if !e.durableMeta {
		if err := e.flush(Meta); err != nil {
			return digest, err
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// undo puts the journaled zone's old ciphertext back and makes the record say
// so. Until then it can be repeated.
func (e *Engine) undo() error {
	z := e.layout.exactZone(e.record.Position, e.record.Zone)
	// Compared before anything is overwritten with it, and again as it is
	// written: storage that fails may give different answers.
	for _, to := range []View{0, Raw} {
		h := sha256.New()
		r := route{
			from: Meta, fromOff: e.layout.JournalOffset, to: to, toOff: e.layout.OldOffset + z.Start,
			length: z.Length, digest: h,
		}
		if err := e.copier.run(r); err != nil {
			return err
		}
		if [sha256.Size]byte(h.Sum(nil)) != e.record.Digest {
			return &JournalError{Zone: z}
		}
	}
	if err := e.flush(Raw); err != nil {
		return err
	}
	r := e.record
	r.Phase, r.Digest = Moving, [sha256.Size]byte{}
	return e.commit(r, z)
}
