// SPDX-License-Identifier: Apache-2.0

package fsprobe

import "io"

// The types of filesystem that a build makes as an image, and that nothing writes to.
const (
	SquashFS = "squashfs"
	EROFS    = "erofs"
)

// ReadOnlyTypes lists the filesystem types that exist only as images.
func ReadOnlyTypes() []string { return []string{SquashFS, EROFS} }

// IsReadOnly reports whether a filesystem type exists only as images.
func IsReadOnly(fstype string) bool { return fstype == SquashFS || fstype == EROFS }

// HasMark reports whether a device has the magic number of a type of ReadOnlyTypes
// in its place. It proves no key: an image may be written to any number of volumes, so
// its superblock does not identify one.
func HasMark(r io.ReaderAt, size int64, fstype string) (bool, error) {
	s := newSource(r, size)
	for _, m := range others {
		if m.name == fstype {
			name, err := s.firstMark([]mark{m})
			return name != "", err
		}
	}
	return false, nil
}
