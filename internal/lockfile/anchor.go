// SPDX-License-Identifier: Apache-2.0

package lockfile

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// anchor is device-mapper's control node. It exists wherever there are volumes. It is in
// the kernel's own filesystem, so it needs no free space, and it is the same in every
// mount namespace. Only root can open it, so no other user can lock it and keep us out.
const anchor = "/dev/mapper/control"

// lockAnchor locks one byte of the anchor, which has no content, for the path of a lock
// file, until f is closed. busy means that another process has the lock. If f is nil and
// busy is false, there is no usable anchor, and the lock file alone must do.
//
// The byte's offset is a hash of the path. Two paths that collide, one pair in
// 2^62, would exclude each other needlessly.
func lockAnchor(anchor, path string) (f *os.File, busy bool) {
	fd, err := unix.Open(anchor, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, false
	}
	f = os.NewFile(uintptr(fd), anchor)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Uid != uint32(os.Geteuid()) || st.Mode&0o077 != 0 {
		_ = f.Close()
		return nil, false // others could lock it
	}
	sum := sha256.Sum256([]byte(path))
	// A lock of an open file description also excludes others in the same process, as
	// flock does.
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(binary.LittleEndian.Uint64(sum[:]) >> 2), Len: 1}
	for {
		if err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lock); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return f, false
	}
	_ = f.Close()
	return nil, errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES)
}
