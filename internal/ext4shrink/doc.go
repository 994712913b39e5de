// SPDX-License-Identifier: Apache-2.0

// Package ext4shrink makes an ext4 filesystem on a device smaller in a way that a power
// cut cannot hurt. resize2fs alone cannot do that: here it resizes a copy of the
// metadata, and what that changes is written to the device from a log. This package is
// the log and the writing; package mkfs runs the programs.
//
// At any moment the device holds one of three things:
//
//   - the filesystem as it was
//   - a mark in place of the superblock's first sector: the log, which the mark names by
//     its hash, is being written. No kernel, udev or checker finds a filesystem there,
//     unless an option makes it look for another superblock
//   - the smaller filesystem
//
// Each changes into the next one by one sector. A log that no mark names is worth
// nothing: the filesystem may have been mounted since.
package ext4shrink
