// SPDX-License-Identifier: Apache-2.0

// Package reencrypt gives a volume a new key in place, zone by zone, so that
// power may go at any moment, twice if it likes, and nothing is lost. It knows
// nothing of kernels, keys or LUKS2: it is handed views of the same data
// through the old and the new mapping and a place for its records, and copies.
// That is what lets a test walk through every state a power cut can leave.
//
// # The storage it trusts
//
// A write is durable once a Flush that began after it returned has returned.
// Until then every 512-byte sector of it may be there or not, independently of
// all others and in any order. A sector itself is old or new, never a mixture;
// nothing larger is atomic, a 4096-byte crypt sector in particular. Some storage rewrites
// 4096 bytes for one sector. So positions are multiples of 4096 bytes of the volume where
// zones are at least 16 KiB long, except its end. The data
// and the header area may be two devices with caches of their own: no step
// relies on a flush of the one for the other.
//
// # Gap
//
// The data moves by the free space beside it. Going down it is copied from
// its start, going up from its end, and the position is the boundary: on one
// side of it the data is at its new place under the new key, on the other at
// its old place under the old key. Between the two lies the free space, always
// as long as the gap, and it moves along. One zone, at most as long as the gap,
// of a volume that is in use:
//
//	hold the zone · copy it into the free space · flush the new view ·
//	write the record with the new position · flush the record · release
//
// Why nothing is lost:
//
//   - Until the record is durable the old copy of the zone is whole, because
//     the copy went into free space. So a cut that loses the record costs
//     nothing but the work.
//   - The record is not written before the copy is durable, so a cut that
//     keeps the record finds a whole copy behind it.
//   - The old copy is free space only after that, and the next zone, which
//     overwrites it, starts after the record's flush.
//   - Writes to a zone in transit are held. They continue after the flush of the
//     record: let through earlier, to either copy, a cut could choose the other.
//     Writes elsewhere meet no byte that a copy touches and are not held.
//
// So there is nothing to repair after a cut: the position says it all, and
// the interrupted zone is copied again. That needs no digest, no journal, and no
// belief about sectors larger than 512 bytes.
//
// Where nobody can use the volume there is nothing to hold, and the copying need
// not stop while what was copied is flushed and recorded. Zones are not needed
// either; two rules are enough:
//
//   - A record is written after a flush of the new view that began when every
//     copy below its position had returned.
//   - A copy is written only if it overwrites nothing above the position of a
//     durable record: at most one gap beyond that position.
//
// Whatever record a cut leaves is the last durable one or the one after it. Below
// its position the copies are durable, by the first rule, and none is written
// twice. Above it the old data is whole: copies overwrite what lies a gap below
// themselves, and that, by the second rule, was below a durable position. This
// does not do for a volume in use: a user's write to what is copied and not yet
// recorded would be lost with either choice of the side.
//
// # Journal
//
// Without a gap each zone is overwritten where it is. Its old ciphertext (the
// plaintext must not be stored) is kept in the journal first:
//
//	hold · copy the ciphertext to the journal · flush · record "journaled"
//	with the digest of it · flush · copy the zone from the old to the new
//	view · flush · record with the new position · flush · release
//
// A cut while the record says "journaled" is undone: the journal is compared
// with its digest, copied back and flushed, and only then the record says
// otherwise, so undoing may itself be cut and repeated. The journal was
// durable before its record was written; one that does not fit its digest is
// damage, not a power cut, and is refused. The journal is overwritten only
// after a record that no longer needs it is durable.
//
// Where nobody can use the volume there is nothing to hold, and the journal is a ring
// buffer, in which each sector has its place by its place in the volume. A record says how far
// everything is moved, and what comes next and is journaled: its length and digest. The
// copying need not stop while that is written, by these rules:
//
//   - A record is written after a flush of the new view that began when every copy
//     below its position had returned, and one of the journal that began when all that
//     it says is journaled had been written there.
//   - A record says journaled at least as far as the record before it.
//   - A copy is written only to what a durable record says is journaled.
//   - What is journaled overwrites in the ring only what was below the position of a
//     durable record, in blocks of 4096 bytes or more of which no byte is needed.
//
// Whatever record a cut leaves is the last durable one or the one after it. What either
// says is journaled is whole in the ring, by the first rule and the last. Below its
// position the copies are durable, by the first. Copies beyond the position were allowed
// by the older of the two records, since the newer one was not durable. What that one says
// is journaled the newer one says too, beyond its own position. So whichever record
// remains, undoing puts all of them back.
//
// # Records
//
// Two slots are used in turn: what is being written is never the record that
// counts. A slot is 4096 bytes in one write, eight copies of 512 bytes, each
// with its own SHA-256, so that one damaged sector does not take the position
// back. The valid copy with the highest sequence counts. A slot that cannot be
// read at all is an error and not an absent record: the other slot's position
// may be an older one, whose data is overwritten. A record is bound to the
// volume's UUID, the generation and the geometry. It is not authenticated;
// neither is the header it belongs to.
//
// Flush before acting on a record that was read: after a killed process
// the record may be in a cache only. A page cache shows even what a failed flush has
// lost, and does not write it with the next one, so there the record is written again.
//
// A record that is whole and says what this program does not know is a newer program's.
// Where it is of the rotation at hand nothing else counts; binding and sequence are in
// the same place in every version.
//
// # Errors
//
// A failed read or write ends the rotation at the last durable position; the
// volume stays readable and the rotation can be resumed. The zone goes back to
// its old place, in journal mode after being undone. Only where the storage
// does not say whether a record became durable is the zone neither old nor new
// for sure: it stays held, [UnsettledError] says so, and Recover settles it.
//
// # Sectors never written
//
// They read as noise through the old mapping and are copied as that noise: a
// volume reads the same afterwards, byte by byte, discarded parts included.
//
// # Memory and speed
//
// [Options.Lanes] buffers of [Options.Unit] bytes, whatever the size of the
// volume, aligned to 4096 bytes for O_DIRECT. Each lane reads one unit and
// writes it, so that reading and writing overlap. A zone costs two flushes
// (journal: four; three for each quarter of the ring). Where nobody uses the volume half a gap is recorded at a time, so that
// the copying has the other half to work on while the flushes take place, and reads
// ahead of what it may write: what is not copied lies in its old place, where
// nobody else writes.
//
// Views should leave what is written to the device's cache: with O_DSYNC each
// unit costs a flush, which in the middle of a zone is good for nothing.
package reencrypt
