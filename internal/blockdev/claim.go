// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/plainfile"

	"golang.org/x/sys/unix"
)

// claim adds to an exclusive open what O_EXCL lacks: a loop device opens its backing file
// without a claim, and for a regular file O_EXCL means nothing. st describes the opened
// file.
func (d *Device) claim(st unix.Stat_t) error {
	if !d.isBlock {
		if err := d.flock(); err != nil {
			return err
		}
	}
	loops := d.system.loopsOver(func(file unix.Stat_t) bool {
		if d.isBlock {
			return file.Mode&unix.S_IFMT == unix.S_IFBLK && file.Rdev == st.Rdev
		}
		return file.Dev == st.Dev && file.Ino == st.Ino
	})
	if len(loops) == 0 {
		return nil
	}
	var u Users
	for _, loop := range loops {
		u.Holders = append(u.Holders, Holder{Device: loop, Name: loop})
	}
	return &BusyError{Path: d.path, Users: u, Err: unix.EBUSY}
}

// flock locks a regular file until it is closed. If the filesystem has no locks, no other
// process can have one either.
func (d *Device) flock() error {
	for {
		err := unix.Flock(int(d.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return &Error{Op: "open", Path: d.path, Code: fault.DeviceInUse, Err: fmt.Errorf("another process has locked it: %w", err)}
		}
		return nil
	}
}

// loopsOver lists the loop devices whose backing file matches, except those whose
// file has no visible name.
func (s System) loopsOver(match func(file unix.Stat_t) bool) []string {
	entries, err := os.ReadDir(s.sys("class/block"))
	if err != nil {
		return nil
	}
	var loops []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "loop") {
			continue
		}
		file, err := plainfile.Attribute(s.block(e.Name(), "loop/backing_file"))
		if err != nil {
			continue // unused
		}
		var st unix.Stat_t
		if unix.Stat(file, &st) == nil && match(st) {
			loops = append(loops, e.Name())
		}
	}
	return loops
}
