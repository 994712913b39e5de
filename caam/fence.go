// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// fenced runs work on its own thread and in its own mount namespace, with an empty
// in-memory filesystem over dir: no other process sees what a program writes there, and
// it is gone afterwards. work must stay on its goroutine; children that it starts are
// inside too.
//
// The filesystem is ramfs, which unlike tmpfs is never swapped out.
//
// It needs CAP_SYS_ADMIN; without it the error is EPERM.
func fenced(dir string, work func() error) error {
	return onDoomedThread(func() error { return inside(dir, work) })
}

// onDoomedThread runs work on a thread that is never used again: a namespace
// cannot be left, so the thread has to end, which it does when a goroutine ends
// while still locked to it.
func onDoomedThread(work func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and /proc/self refers to it: its namespace
			// would be taken for the process's forever. It is kept busy while another
			// thread does the work.
			defer runtime.UnlockOSThread()
			result <- onDoomedThread(work)
			return
		}
		result <- work()
	}()
	return <-result
}

func inside(dir string, work func() error) (err error) {
	// CLONE_FS is necessary, since threads otherwise share their root and working
	// directory. It also gives the thread its own umask.
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the mount namespace: %w", err)
	}
	unix.Umask(0o077)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return notPrivate(err)
	}
	at, err := mountPoint(dir)
	if err != nil {
		return err
	}
	if err := unix.Mount("imxcrypt", at, "ramfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount memory over %s: %w", at, err)
	}
	defer func() {
		// The end of the thread would do this too, but could not be waited for.
		if e := unix.Unmount(at, unix.MNT_DETACH); e != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", at, e))
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return work()
}

// errRootNotMounted means that / is a directory of a filesystem mounted elsewhere, as
// after a chroot, so its mount propagation cannot be changed.
var errRootNotMounted = errors.New("/ is not a mount point, as in a chroot; bind the new root onto itself before (mount --bind ROOT ROOT; chroot ROOT), or use caam.engine: ioctl")

// notPrivate explains why mounts could not be made private (mount(2): EINVAL if it is not
// a mount point).
func notPrivate(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("make mounts private: %w: %w", err, errRootNotMounted)
	}
	return fmt.Errorf("make mounts private: %w", err)
}

// mountPoint returns where memory can be mounted so that dir is in it: dir itself or, if
// that is missing (on a read-only root it cannot be made), an empty directory above it. A
// directory that is not empty is not covered: it might contain the program or its
// libraries.
func mountPoint(dir string) (string, error) {
	st, err := os.Stat(dir)
	switch {
	case err == nil && st.IsDir():
		return dir, nil
	case err == nil:
		return "", fmt.Errorf("%s is not a directory: %w", dir, unix.ENOTDIR)
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	for above := filepath.Dir(dir); above != "/" && above != "."; above = filepath.Dir(above) {
		names, err := os.ReadDir(above)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if len(names) == 0 {
			return above, nil
		}
		break
	}
	return "", fmt.Errorf("%s is missing, and there is no empty directory above it: make it, it stays empty: %w", dir, unix.ENOENT)
}
