// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/loopdev"
)

// ScratchDevice makes a file of zeros at path, which must not exist, and a block device
// from it. If path is on a tmpfs, that is a RAM disk. release removes it. The file's name
// is removed at once, so that a killed run leaves nothing that fills the memory.
func ScratchDevice(path string) (device string, release func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", nil, fmt.Errorf("scratch file: %w", err)
	}
	remove := func() error { return os.Remove(path) }
	err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, span), f.Close())
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("scratch file %s: %w", path, err), remove())
	}
	d, err := loopdev.AttachWritable(path)
	if err = errors.Join(err, remove()); err != nil {
		if d != nil {
			err = errors.Join(err, d.Close())
		}
		return "", nil, err
	}
	return d.Path(), d.Close, nil
}
