// SPDX-License-Identifier: Apache-2.0

// Package ext4shrink makes an ext4 filesystem on a device smaller in a way that a power
// cut cannot hurt, which resize2fs by itself is not: it resizes a copy of the metadata,
// and what that changes is written to the device from a log. This package is the log
// and the writing; the programs are run by package mkfs.
//
// What is on the device is one of three things at any moment:
//
//   - the filesystem as it was
//   - a mark in the place of the superblock's first sector: the log, which is named by
//     its hash, is being written. No kernel, no udev and no checker finds a filesystem there,
//     unless an option makes it look for another superblock
//   - the smaller filesystem
//
// Each changes into the next one with one sector. A log that no mark names is worth
// nothing: the filesystem may have been mounted since.
package ext4shrink
