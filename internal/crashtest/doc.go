// SPDX-License-Identifier: Apache-2.0

// Package crashtest records what a program does to its disks and enumerates what a power
// cut may leave of it, so that a test can start the next run from each of these states.
// It is for tests only.
//
// # The model
//
// A disk has a volatile cache. A write goes there; a flush of that disk returns when
// everything written to it before is durable. After a power cut, each of the writes since
// a disk's last flush may be there, missing, or torn: a write consists of sectors (512
// bytes, or [Options.Tear]), each of which is there or missing by itself, in any order. A
// single sector is never torn. If unflushed writes overlap, the later one wins wherever
// both are there. A flush of one disk says nothing about another. A discard is a write of
// the disk's fill byte, in pieces that may be there or missing too; secure erasing
// promises more, which is beyond this package. A write through the cache
// ([Disk.WriteThrough]) is like any other while in progress, and durable afterwards; it
// flushes nothing else.
//
// Killing the process loses nothing: that state is [Disk.Live].
//
// # What is enumerated
//
// The log of one run is cut before every flush, during every write through, and at its
// end; the time between two cuts is an epoch. What was flushed is there. For the pending
// writes of all disks together, these states are tried:
//
//   - every prefix of the writes, including none and all of them
//   - every loss of a single write, and every write by itself
//   - every tear: all writes before it, and the first or the last n sectors of one write,
//     for each n; with and without the writes after it
//   - every loss of a single sector, and every sector by itself
//   - all subsets of the writes if there are [Options.Exhaustive] or fewer
//   - all subsets of the sectors if there are that many or fewer; they replace all the
//     others
//   - random subsets of the sectors, from a seed
//
// Cutting in the middle of an epoch gives nothing new: it is the state in which the later
// writes are missing. Sectors that a write leaves unchanged are not counted, since it
// does not matter whether they are written. No state of an epoch is tried twice. If a
// list is longer than [Options.Limit], both its ends and a random choice between them are
// tried.
package crashtest
