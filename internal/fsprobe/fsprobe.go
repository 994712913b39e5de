// SPDX-License-Identifier: Apache-2.0

// Package fsprobe reads filesystem superblocks: which filesystem, which UUID and label,
// and whether the superblock proves itself.
//
// It distinguishes the right key from a wrong one: no superblock passes if it is
// decrypted with a wrong key, IV mode or sector size. It does not check the filesystem's
// health. Its results come from the disk: print labels quoted.
package fsprobe

import (
	"errors"
	"fmt"
	"io"

	"imxcrypt/internal/fault"
)

// The types that Read knows, as mount(8) and mkfs call them.
const (
	Ext2  = "ext2"
	Ext3  = "ext3"
	Ext4  = "ext4"
	XFS   = "xfs"
	Btrfs = "btrfs"
	F2FS  = "f2fs"
	VFAT  = "vfat"
)

// Superblock is what a filesystem says about itself.
type Superblock struct {
	Type string
	// UUID as blkid prints it: lower case with dashes, for vfat the volume
	// serial as "1A2B-3C4D". May be empty.
	UUID  string
	Label string
	// Verified reports whether the superblock proved itself, by its checksum or, if the
	// filesystem has none, by agreeing with a second structure elsewhere on the device.
	// Otherwise it merely looks plausible.
	Verified bool
	// HasChecksum reports whether the superblock has a checksum. If it has one and
	// Verified is false, its algorithm is not known here.
	HasChecksum bool
	// Proof names what was compared, or why nothing could be: for messages.
	Proof string
	// BlockSize is the filesystem's block (cluster, for vfat) in bytes.
	BlockSize int
	// Sector is the smallest unit in bytes that the filesystem reads and writes:
	// a device whose logical block is larger cannot hold it.
	Sector int
	// Size of the filesystem in bytes.
	Size int64
	// NeedsCheck reports whether the filesystem asks for its checker before it is
	// mounted: errors were recorded, the mount count is reached, or it has no journal and
	// was not unmounted. A journal that only waits to be replayed does not count, because
	// mounting replays it.
	NeedsCheck bool
	// Unclean reports whether a journal waits to be replayed, or deleted files that were
	// open wait to be freed. Only the ext family records that.
	Unclean bool
	// Mounted reports whether it was mounted at least once. Only the ext family records
	// that.
	Mounted bool
}

// ErrNone means that no known filesystem was found.
var ErrNone = errors.New("no known filesystem")

// ChecksumError means that a superblock was recognised but does not prove itself.
type ChecksumError struct {
	Type   string
	Reason string // "superblock checksum is 0x…, must be 0x…"
}

func (e *ChecksumError) Error() string { return e.Type + ": " + e.Reason }

// FaultCode implements fault.Coder.
func (e *ChecksumError) FaultCode() fault.Code { return fault.FilesystemWrong }

func badf(fstype, format string, a ...any) error {
	return &ChecksumError{Type: fstype, Reason: fmt.Sprintf(format, a...)}
}

// prober reads one family of filesystems. It returns ErrNone if its magic number is not
// there.
type prober struct {
	types []string
	read  func(*source) (*Superblock, error)
}

// probers are in the order in which Read tries them. vfat's mark is the weakest, so it
// comes last.
var probers = [...]prober{
	{[]string{Ext2, Ext3, Ext4}, readExt},
	{[]string{F2FS}, readF2FS},
	{[]string{XFS}, readXFS},
	{[]string{Btrfs}, readBtrfs},
	{[]string{VFAT}, readVFAT},
}

// Known reports whether Read can recognise a filesystem type.
func Known(fstype string) bool {
	for _, p := range probers {
		for _, t := range p.types {
			if t == fstype {
				return true
			}
		}
	}
	return false
}

// Read finds the filesystem on a device of size bytes. The error is ErrNone, a
// *ChecksumError (recognised, but does not prove itself), or the error of reading; it can
// be wrapped.
//
// A damaged superblock of one filesystem does not hide a sound one of another:
// an old one may have been left in a place that the new one does not use.
func Read(r io.ReaderAt, size int64) (*Superblock, error) {
	s := newSource(r, size)
	first := ErrNone
	for _, p := range probers {
		sb, err := p.read(s)
		switch {
		case err == nil:
			return sb, nil
		case errors.Is(err, ErrNone):
		case errors.As(err, new(*ChecksumError)):
			if errors.Is(first, ErrNone) {
				first = err
			}
		default:
			return nil, err
		}
	}
	return nil, first
}

// ReadType is Read for a known type: it looks only for that type (ext2, ext3 and ext4 are
// one family, and the Superblock says which). It reads as few aligned blocks of 4096
// bytes as possible: one for xfs and btrfs, two for ext4 with metadata_csum, in one call
// of ReadAt, two or three for the others. An unknown type is ErrNone.
func ReadType(r io.ReaderAt, size int64, fstype string) (*Superblock, error) {
	for _, p := range probers {
		for _, t := range p.types {
			if t == fstype {
				s := newSource(r, size)
				if t == Ext4 {
					s.ahead(2)
				}
				return p.read(s)
			}
		}
	}
	return nil, ErrNone
}

// Seen reports whether a filesystem of a type is there, from the minimum that
// distinguishes the right key from a wrong one: for the ext family the block with the
// superblock. The rest of what ReadType reads changes while the filesystem is mounted.
func Seen(r io.ReaderAt, size int64, fstype string) (bool, error) {
	var err error
	switch fstype {
	case Ext2, Ext3, Ext4:
		_, _, err = readExtSuper(newSource(r, size))
	default:
		var sb *Superblock
		if sb, err = ReadType(r, size, fstype); err == nil {
			return sb.Verified, nil
		}
	}
	if err == nil || errors.Is(err, ErrNone) || errors.As(err, new(*ChecksumError)) {
		return err == nil, nil
	}
	return false, err
}
