// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"crypto/sha256"
	"errors"
)

// moveInPlace moves a zone that is overwritten in place: journal, record, copy, record.
func (e *Engine) moveInPlace(z Zone) error {
	r := e.record
	r.Phase, r.Zone = Journaled, z.Length
	save := route{
		from: Raw, fromOff: e.layout.OldOffset + z.Start, to: Meta, toOff: e.layout.JournalOffset,
		length: z.Length, sums: newChecksums(z.Length),
	}
	if err := e.copier.run(save); err != nil {
		return err
	}
	if err := e.flush(Meta); err != nil {
		return err
	}
	r.Digest = save.sums.digest()
	if err := e.commit(r, z); err != nil {
		return err
	}
	err := e.copyZone(z)
	if err == nil {
		err = e.trusted()
	}
	if err == nil {
		err = e.commit(e.moved(z), z)
	}
	return e.orUndo(z, err)
}

// orUndo puts the journaled zone back if it was not moved, unless its state is unknown.
func (e *Engine) orUndo(z Zone, err error) error {
	if err == nil || undecided(err) {
		return err
	}
	if uerr := e.undo(); uerr != nil {
		return &UnsettledError{Zone: z, Err: errors.Join(err, uerr)}
	}
	return err
}

// undo puts the old ciphertext of the journaled zone back and updates the record. Until
// then it can be repeated.
func (e *Engine) undo() error {
	z := e.layout.exactZone(e.record.Position, e.record.Zone)
	// The journal is compared before anything is overwritten with it, and again as it is
	// written: failing storage may give different answers.
	for _, to := range []View{0, Raw} {
		sums := newChecksums(z.Length)
		for _, p := range e.record.journalParts() {
			if err := e.copier.run(route{
				from: Meta, fromOff: e.layout.JournalOffset + p.at, to: to, toOff: e.layout.OldOffset + p.Start,
				length: p.Length, sums: sums.part(p.Start-z.Start, p.Length),
			}); err != nil {
				return err
			}
		}
		if sums.digest() != e.record.Digest {
			return &JournalError{Zone: z}
		}
	}
	if err := e.flush(Raw); err != nil {
		return err
	}
	r := e.record.unjournaled()
	r.Phase = Moving
	return e.commit(r, z)
}

// journalPart is a part of a zone and its place in the journal.
type journalPart struct {
	Zone
	at int64 // bytes from the journal's start
}

// journalParts returns the parts of the journaled zone as they are in the journal, in
// ascending order.
func (r Record) journalParts() []journalPart {
	z := r.layout().exactZone(r.Position, r.Zone)
	first := z.Length
	if r.RingSize > 0 {
		first = min(first, r.RingSize-r.JournalAt)
	}
	all := []journalPart{{Zone{z.Start, first}, r.JournalAt}}
	if rest := z.Length - first; rest > 0 {
		all = append(all, journalPart{Zone{z.Start + first, rest}, 0})
	}
	return all
}

// unjournaled returns the record without its journal fields.
func (r Record) unjournaled() Record {
	r.Digest, r.JournalAt, r.RingSize = [sha256.Size]byte{}, 0, 0
	return r
}
