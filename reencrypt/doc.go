// SPDX-License-Identifier: Apache-2.0

// Package reencrypt gives a volume a new key in place, zone by zone. Power may be cut at
// any moment, even twice in a row, and nothing is lost. The package knows nothing about
// kernels, keys or LUKS2: it is given views of the same data through the old and the new
// mapping and a place for its records, and it copies. This lets a test walk through every
// state that a power cut can leave.
//
// # The storage it trusts
//
// A write is durable once a Flush that began after the write returned has itself
// returned. Until then each of its 512-byte sectors may or may not be there,
// independently of all others and in any order. A sector itself is old or new, never a
// mixture. Nothing larger is atomic; in particular, a 4096-byte crypt sector is not. Some
// storage rewrites 4096 bytes to write one sector. If zones are at least 16 KiB long,
// positions are therefore multiples of 4096 bytes of the volume, except at its end. The
// data and the header area may be on two devices with separate caches: no step relies on
// a flush of one for the other.
//
// # Gap
//
// The data moves by the size of the free space beside it. When it moves down it is copied
// from its start, when it moves up from its end. The position is the boundary: on one
// side of it the data is at its new place under the new key, on the other side at its old
// place under the old key. Between the two is the free space, which always has the size
// of the gap and moves along. For a volume in use, these are the steps for one zone,
// which is at most as long as the gap:
//
//	hold the zone · copy it into the free space · flush the new view ·
//	write the record with the new position · flush the record · release
//
// Why nothing is lost:
//
//   - Until the record is durable the old copy of the zone is whole, because the copy
//     went into free space. So a cut that loses the record costs nothing but the work.
//   - The record is not written before the copy is durable, so after a cut that keeps the
//     record the copy is whole.
//   - Only after that does the old copy become free space, and the next zone, which
//     overwrites it, starts after the record's flush.
//   - Writes to a zone in transit are held until the record has been flushed. If they
//     were let through earlier, to either copy, a cut could choose the other. Writes
//     elsewhere touch no byte that is being copied and are not held.
//
// So there is nothing to repair after a cut: the position is all that is needed, and the
// interrupted zone is copied again. This requires no digest, no journal, and no
// assumption about sectors larger than 512 bytes.
//
// If the volume cannot be in use there is nothing to hold, and copying need not stop
// while finished copies are flushed and recorded. Zones are not needed either; two rules
// are enough:
//
//   - A record is written after a flush of the new view that began when every copy below
//     the record's position had returned.
//   - A copy is written only if it overwrites nothing above the position of a durable
//     record: at most one gap beyond that position.
//
// A cut leaves either the last durable record or the one after it. Below its position the
// copies are durable, by the first rule, and none is written twice. Above it the old data
// is whole: copies overwrite what is one gap below them, and that, by the second rule,
// was below a durable position. These rules are not enough for a volume in use: a write
// to data that is copied but not yet recorded could be lost whichever side it went to.
//
// # Journal
//
// Without a gap each zone is overwritten in place. Its old ciphertext (the plaintext must
// not be stored) is saved in the journal first:
//
//	hold · copy the ciphertext to the journal · flush · record "journaled"
//	with its digest · flush · copy the zone from the old to the new
//	view · flush · record with the new position · flush · release
//
// After a cut while the record says "journaled", the zone is undone: the journal is
// compared with its digest, copied back and flushed. Only then does the record change, so
// undoing may itself be cut and repeated. The journal was durable before its record was
// written. If it does not match its digest, it was damaged by something other than a
// power cut, and it is refused. The journal is overwritten only after a record that no
// longer needs it is durable.
//
// If the volume cannot be in use there is nothing to hold, and the journal is a ring
// buffer, in which the place of each sector follows from its place in the volume. A
// record says how far everything is moved, and the length and digest of what comes next
// and is journaled. Copying need not stop while the record is written, by these rules:
//
//   - A record is written after two flushes: one of the new view that began when every
//     copy below its position had returned, and one of the journal that began when
//     everything it calls journaled had been written there.
//   - What a record calls journaled extends at least as far as in the record before it.
//   - A copy is written only to what a durable record calls journaled.
//   - In the ring, journaling overwrites only what was below the position of a durable
//     record, in blocks of 4096 bytes or more of which no byte is needed.
//
// A cut leaves either the last durable record or the one after it. What either calls
// journaled is whole in the ring, by the first rule and the last. Below its position the
// copies are durable, by the first. Copies beyond the position were allowed by the older
// of the two records, since the newer one was not durable. Whatever the older record
// calls journaled, the newer one does too, beyond its own position. So whichever record
// remains, undoing puts all of them back.
//
// # Records
//
// Two slots are used in turn, so a record is never written over the one that counts. A
// slot is 4096 bytes in one write: eight copies of 512 bytes, each with its own SHA-256,
// so that one damaged sector does not set the position back. The valid copy with the
// highest sequence counts. A slot that cannot be read at all is an error, not an absent
// record: the other slot's position may be an older one, whose data has been overwritten.
// A record is bound to the volume's UUID, the generation and the geometry. It is not
// authenticated; neither is the header it belongs to.
//
// Flush before acting on a record that was read: if the process that wrote it was killed,
// the record may be only in a cache. A page cache shows even data that a failed flush has
// lost, and the next flush does not write it. If the records go through a page cache, the
// record is therefore written again.
//
// A record that is whole but holds something this program does not know was written by a
// newer program. If it belongs to the rotation at hand, no other record counts. Binding
// and sequence are at the same place in every version.
//
// # Errors
//
// A failed read or write ends the rotation at the last durable position. The volume stays
// readable and the rotation can be resumed. The zone goes back to its old place, in
// journal mode after it is undone. Only if the storage does not say whether a record
// became durable, or if an overwritten zone cannot be put back, is it unknown whether the
// zone is old or new. The zone then stays held, [UnsettledError] says so, and Recover
// settles it.
//
// # Sectors never written
//
// They read as noise through the old mapping and are copied as that noise: a volume reads
// the same afterwards, byte for byte, including discarded parts.
//
// # Memory and speed
//
// A rotation takes [Options.Lanes] buffers of [Options.Unit] bytes, whatever the size of
// the volume, aligned to 4096 bytes for O_DIRECT. Each lane reads one unit and writes it,
// so that reading and writing overlap. A zone costs two flushes (journal: four; three for
// each quarter of the ring). If the volume cannot be in use, half a gap is recorded at a
// time, so that copying can continue in the other half during the flushes. Copying then
// also reads ahead of what it may write: what is not yet copied is at its old place,
// where nothing else writes.
//
// Views should leave what is written in the device's cache: with O_DSYNC each unit costs
// a flush, which is useless in the middle of a zone.
package reencrypt
