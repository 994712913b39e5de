// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"crypto/sha256"
	"errors"
)

// moveInPlace moves a zone that is overwritten: journal, record, copy, record.
func (e *Engine) moveInPlace(z Zone) error {
	s, err := e.save(e.copier, z, 0)
	if err != nil {
		return err
	}
	if err := e.commit(s.in(e.record), z); err != nil {
		return err
	}
	err = e.copyZone(e.copier, z)
	if err == nil {
		err = e.trusted()
	}
	if err == nil {
		err = e.commit(e.moved(z), z)
	}
	return e.orUndo(z, err)
}

// saved is a zone whose old ciphertext is in the journal.
type saved struct {
	Zone
	digest [sha256.Size]byte
	at     int64 // bytes from the journal's start
}

// in is the record that says so; at its position the zone begins.
func (s saved) in(r Record) Record {
	r.Phase, r.Zone, r.Digest, r.JournalAt = Journaled, s.Length, s.digest, s.at
	return r
}

// save keeps the zone's old ciphertext in the journal, durably.
func (e *Engine) save(c *copier, z Zone, at int64) (saved, error) {
	r := route{
		from: Raw, fromOff: e.layout.OldOffset + z.Start, to: Meta, toOff: e.layout.JournalOffset + at,
		length: z.Length, sums: newChecksums(z.Length),
	}
	if err := c.run(r); err != nil {
		return saved{}, err
	}
	if !e.durableMeta {
		if err := e.flush(Meta); err != nil {
			return saved{}, err
		}
	}
	return saved{z, r.sums.digest(), at}, nil
}

// orUndo puts the journaled zone back where it was not moved, unless nobody knows.
func (e *Engine) orUndo(z Zone, err error) error {
	if err == nil || undecided(err) {
		return err
	}
	if uerr := e.undo(); uerr != nil {
		return &UnsettledError{Zone: z, Err: errors.Join(err, uerr)}
	}
	return err
}

// undo puts the journaled zone's old ciphertext back and makes the record say
// so. Until then it can be repeated.
func (e *Engine) undo() error {
	z := e.layout.exactZone(e.record.Position, e.record.Zone)
	// Compared before anything is overwritten with it, and again as it is
	// written: storage that fails may give different answers.
	for _, to := range []View{0, Raw} {
		r := route{
			from: Meta, fromOff: e.layout.JournalOffset + e.record.JournalAt, to: to, toOff: e.layout.OldOffset + z.Start,
			length: z.Length, sums: newChecksums(z.Length),
		}
		if err := e.copier.run(r); err != nil {
			return err
		}
		if r.sums.digest() != e.record.Digest {
			return &JournalError{Zone: z}
		}
	}
	if err := e.flush(Raw); err != nil {
		return err
	}
	r := e.record
	r.Phase, r.Digest, r.JournalAt = Moving, [sha256.Size]byte{}, 0
	return e.commit(r, z)
}
