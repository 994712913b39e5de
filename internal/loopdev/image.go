// SPDX-License-Identifier: Apache-2.0

package loopdev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// Images attaches loop devices to images of volumes, which are files.
type Images struct{}

// Over returns the loop device over the image at path, "/dev/loop0"; it is empty if there
// is none. Several devices, or one that shows only part of the file, are an error of code
// device-in-use: what is written through one is not seen through another.
func (Images) Over(path string) (string, error) {
	var image unix.Stat_t
	if err := unix.Stat(path, &image); err != nil {
		return "", failed("look at "+path, err)
	}
	bound, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return "", err
	}
	var found []string
	for _, folder := range bound {
		device := "/dev/" + filepath.Base(filepath.Dir(folder))
		info, err := status(device)
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) && gone(folder) {
			continue // detached a moment ago
		}
		if err != nil {
			return "", failed("look at "+device, err)
		}
		// Compare by number, not by name: the name may be from another mount namespace,
		// or gone.
		if info.Device != uint64(image.Dev) || info.Inode != image.Ino {
			continue
		}
		if info.Offset != 0 || info.Sizelimit != 0 {
			return "", fault.Newf(fault.DeviceInUse, "a part of %s lies under %s", path, device)
		}
		found = append(found, device)
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return found[0], nil
	}
	return "", fault.Newf(fault.DeviceInUse, "%s lies under several loop devices: %s", path, strings.Join(found, ", "))
}

// gone reports whether a loop device is over no file any more, given its folder in sysfs.
// A device whose node is missing here, as in a container, may still be over the image.
func gone(folder string) bool {
	_, err := os.Lstat(folder)
	return err != nil
}

func status(device string) (*unix.LoopInfo64, error) {
	file, err := os.OpenFile(device, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	info, err := unix.IoctlLoopGetStatus64(int(file.Fd()))
	return info, errors.Join(err, file.Close())
}

// Attach returns the loop device over the image at path, held open: the existing one, or
// a new one with direct I/O and blocks of sector bytes if the file and its storage allow
// them. A new one disappears when no process or mapping has it open any more. It is
// read-only if the file is. Errors are those of the package's Attach and of Over.
func (i Images) Attach(path string, sector int) (device string, _ io.Closer, err error) {
	// Two processes at the same moment must not attach two devices. The lock is on an
	// open file description of its own, because the loop device keeps the one that it is
	// given.
	lock, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", nil, failed("open "+path, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if info, err := lock.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", nil, fault.New(fault.DeviceUnsuitable, path+" is not a regular file", err)
	}
	if err := exclusively(lock, lockPatience); err != nil {
		return "", nil, err
	}
	for range attempts {
		there, err := i.Over(path)
		if err != nil {
			return "", nil, err
		}
		if there == "" {
			d, err := attachFile(path, sector, os.O_RDWR)
			if err != nil {
				return "", nil, err
			}
			return d.Path(), d, nil
		}
		file, err := os.OpenFile(there, os.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", nil, failed("open "+there, err)
		}
		// Before it was opened, it may have been detached and attached to another file.
		if still, err := i.Over(path); err == nil && still == there {
			return there, file, nil
		}
		if err := file.Close(); err != nil {
			return "", nil, err
		}
	}
	return "", nil, failed("attach "+path, unix.EBUSY)
}

// lockPatience is how long another process may take to attach a device. Any process that
// may read the file can lock it for ever, and a boot must not wait for that silently.
const lockPatience = 10 * time.Second

func exclusively(file *os.File, patience time.Duration) error {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return failed("lock "+file.Name(), err)
		case time.Now().After(end):
			return fault.New(fault.DeviceInUse, fmt.Sprintf("another process holds a lock on %s (flock; `lslocks` names it)", file.Name()), err)
		}
	}
}

// Resized makes the loop device at device take its file's size.
func (Images) Resized(device string) error {
	file, err := os.OpenFile(device, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("open "+device, err)
	}
	if err := unix.IoctlSetInt(int(file.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return errors.Join(failed(fmt.Sprintf("give %s the size of its file", device), err), file.Close())
	}
	return file.Close()
}
