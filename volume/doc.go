// SPDX-License-Identifier: Apache-2.0

// Package volume implements the life of a volume: provisioning, unlocking, locking,
// verifying and inspecting it. The rules that protect its data are here and only here.
//
// # The path of a key
//
// A [source.Source] makes a key and seals it as a blob, which is stored in a token of the
// volume's LUKS2 header ([header.Token]). At each unlock the hardware opens the blob
// again, into a black key. The key is loaded into the calling thread's keyring for just
// as long as device-mapper needs to copy it into a table, and then wiped.
//
// # What proves a key
//
// A wrong key does not fail: it decrypts to noise, and writes noise back. So no mapping
// is announced to the system before its key is proved: on the fast path by the
// filesystem's superblock (type, UUID, its own checksum), and if that does not fit, by
// the check area (see [header.Check]).
//
// # What survives a power cut
//
// Provisioning is a sequence of durable steps. The next run recognises each state between
// two of them from what is on the device alone:
//
//	nothing                          → starts from the beginning
//	a torn first header, rest empty  → ours, no key in use yet: starts over
//	a header, phase provisioning     → key exists, no data yet: continues with it
//	a header, phase ready            → done, never touched again
package volume
