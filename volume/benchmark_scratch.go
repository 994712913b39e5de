// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/loopdev"
)

// ScratchDevice makes a file of zeros at path, which must not exist, and a block
// device of it. Where path lies on a tmpfs, that is a RAM disk. release takes
// both away again.
func ScratchDevice(path string) (device string, release func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", nil, fmt.Errorf("scratch file: %w", err)
	}
	remove := func() error { return os.Remove(path) }
	err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, benchmarkSpan), f.Close())
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("scratch file %s: %w", path, err), remove())
	}
	d, err := loopdev.AttachWritable(path)
	if err != nil {
		return "", nil, errors.Join(err, remove())
	}
	return d.Path(), func() error { return errors.Join(d.Close(), remove()) }, nil
}
