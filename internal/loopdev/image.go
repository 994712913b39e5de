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

// Images are loop devices over images of volumes, which lie in files.
type Images struct{}

// Over is the loop device that lies over the image at path, "/dev/loop0"; empty if there
// is none. Several, or one that shows another part of the file than all of it, are an
// error of code device-in-use: what is written through one is not seen through another.
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
		// By number, not by name: that may be of another mount namespace, or gone.
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

// gone reports whether a loop device lies over nothing any more, by its folder in sysfs.
// One whose node is missing here, as in a container, may lie over the image all the same.
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

// Attach gives the loop device over the image at path, held open: the one that is there
// already, or a new one with direct I/O and blocks of sector bytes where the file and
// what it lies on allow them. A new one disappears when nobody has it open any more,
// mappings included. It is read-only where the file is. Errors are those of the
// package's Attach and of Over.
func (i Images) Attach(path string, sector int) (device string, _ io.Closer, err error) {
	// Two processes that come at the same moment must not attach two. The lock is on a
	// description of its own, for the loop device keeps the one that it is given.
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
		// It may have gone, and have come back over something else, before it was open.
		if still, err := i.Over(path); err == nil && still == there {
			return there, file, nil
		}
		if err := file.Close(); err != nil {
			return "", nil, err
		}
	}
	return "", nil, failed("attach "+path, unix.EBUSY)
}

// lockPatience is how long another process may take to attach a device. Whoever may read
// the file can lock it for ever, and a boot must not wait for that in silence.
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

// Resized has the loop device at device take its file's size.
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
