// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// DefaultMaxSize is Read's limit in bytes when its options set none.
const DefaultMaxSize = 1 << 20

// ReadOptions says how far a file is trusted. The zero value accepts only regular files
// of up to DefaultMaxSize, and no links.
type ReadOptions struct {
	// MaxSize in bytes; 0 is DefaultMaxSize.
	MaxSize int64
	// FollowLinks allows the last part of the path to be a symbolic link.
	FollowLinks bool
	// RootOwned requires the owner to be root.
	RootOwned bool
	// Forbid holds permission bits that must not be set: 0o022 for a file that only its
	// owner may write.
	Forbid fs.FileMode
}

// Read returns the contents of a small regular file. All checks are made on the open
// descriptor, so that what was checked is what is read. Errors are *Error; errors.Is
// finds fs.ErrNotExist and the reasons of this package.
func Read(path string, o ReadOptions) ([]byte, error) {
	f, size, err := Open(path, o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, failed("read", path, errors.Join(errors.New("changed while it was read"), err))
	}
	// There must be no further byte: a file that grows has a writer.
	if n, _ := f.Read(make([]byte, 1)); n > 0 {
		return nil, failed("read", path, errors.New("changed while it was read"))
	}
	return data, nil
}

// Open is the first half of Read, for contents that must not pass through
// ordinary memory: it returns the checked file, to be closed by the caller,
// and its size in bytes.
func Open(path string, o ReadOptions) (*os.File, int64, error) {
	// Without O_NONBLOCK, opening a fifo would wait for its writer.
	flags := unix.O_RDONLY | unix.O_NONBLOCK
	if !o.FollowLinks {
		flags |= unix.O_NOFOLLOW
	}
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.ELOOP) && !o.FollowLinks {
		err = ErrLink
	}
	if err != nil {
		return nil, 0, failed("read", path, err)
	}
	size, err := o.check(f)
	if err != nil {
		_ = f.Close()
		return nil, 0, failed("read", path, err)
	}
	return f, size, nil
}

func (o ReadOptions) check(f *os.File) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	most := o.MaxSize
	if most == 0 {
		most = DefaultMaxSize
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, ErrNotRegular
	case o.RootOwned && st.Uid != 0:
		return 0, fmt.Errorf("%w but by user %d", ErrOwner, st.Uid)
	case st.Mode&uint32(o.Forbid.Perm()) != 0:
		return 0, fmt.Errorf("%w: %04o, none of %04o allowed", ErrMode, st.Mode&0o7777, o.Forbid.Perm())
	case st.Size > most:
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, st.Size, most)
	}
	return st.Size, nil
}
