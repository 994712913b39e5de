// SPDX-License-Identifier: Apache-2.0

// Package volume is the life of a volume: it is provisioned, unlocked, locked,
// verified and looked at here, and the rules that protect its data live here
// and only here.
//
// # The way of a key
//
// A [Source] makes a key and seals it as a blob, which lies in a token of the
// volume's LUKS2 header ([Token]). At each unlock the blob is opened again by
// the hardware into a black key, which is loaded into the calling thread's
// keyring for just as long as device-mapper needs to copy it into a table, and
// wiped.
//
// # What proves a key
//
// A wrong key does not fail: it decrypts to noise, and writes noise back. So
// no mapping is announced to the system before its key is proved: on the fast
// path by the filesystem's superblock (type, UUID, its own checksum), and where
// that does not fit, by the check area (see [Check]).
//
// # What survives a power cut
//
// Provisioning is a sequence of durable steps. Each state between two of them
// is recognised by the next run from what is on the device alone:
//
//	nothing                          → starts from the beginning
//	a torn first header, else empty  → ours, no key in use yet: starts over
//	a header, phase provisioning     → key exists, no data yet: continues with it
//	a header, phase ready            → done, never touched again
package volume
