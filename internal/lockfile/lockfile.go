// SPDX-License-Identifier: Apache-2.0

// Package lockfile keeps two imxcrypt processes from working on the same volume. The
// error of the second names the first.
package lockfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

// Lock is a held lock. It ends with Release or with the process: the kernel drops
// it however the process ends, so there are no stale locks.
type Lock struct {
	f        *os.File // nil if there was no room for it
	anchored *os.File // nil if there is no anchor
}

// holder is what a lock file says about the lock's holder; record writes it.
type holder struct {
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

// HeldError means that another process holds the lock. PID is 0 if the holder is not
// recorded.
type HeldError struct {
	Path    string
	Name    string
	PID     int
	Command string // its command line, cut to a sensible length
	Since   time.Time
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("lock %s: held by another process", e.Name)
	}
	return fmt.Sprintf("lock %s: held by process %d (%q) since %s", e.Name, e.PID, e.Command, e.Since.Format(time.RFC3339))
}

// Is makes errors.Is(err, unix.EWOULDBLOCK) true.
func (e *HeldError) Is(target error) bool { return target == unix.EWOULDBLOCK }

// FaultCode implements fault.Coder.
func (e *HeldError) FaultCode() fault.Code { return fault.LockHeld }

// Error means that the lock could not be tried.
type Error struct {
	Path string
	Code fault.Code
	Err  error
}

func (e *Error) Error() string { return "lock " + e.Path + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// FaultCode implements fault.Coder.
func (e *Error) FaultCode() fault.Code { return e.Code }

const (
	dirMode    = 0o700
	fileMode   = 0o600
	maxName    = 64
	maxCommand = 200 // bytes
	maxContent = 4096
)

// Acquire takes the lock of that name in dir, which it creates (0700) if it is missing.
// It does not wait: a *HeldError names the holder. Other errors are *Error.
//
// The lock belongs to the open file (flock): a second Acquire in the same process is
// refused too, and programs started meanwhile do not inherit the lock. If the file cannot
// be created because the filesystem is full or read-only, the lock on the [anchor], which
// every process takes, is enough. The file's contents are only for messages, and may be
// missing.
func Acquire(dir, name string) (*Lock, error) { return place{anchor, open}.acquire(dir, name) }

// place is where locks are kept; tests use others.
type place struct {
	anchor string
	open   func(dir, file string) (*os.File, error)
}

func (p place) acquire(dir, name string) (*Lock, error) {
	path := filepath.Join(dir, name+".lock")
	if name == "" || len(name) > maxName || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\x00") {
		return nil, &Error{Path: path, Code: fault.Usage, Err: fmt.Errorf("%q is not a name for a lock", name)}
	}
	anchored, busy := lockAnchor(p.anchor, path)
	l := &Lock{anchored: anchored}
	f, err := p.open(dir, name+".lock")
	switch {
	case err == nil:
		l.f = f
	case busy || anchored != nil && roomless(err):
	default:
		l.drop()
		return nil, lockError(path, err)
	}
	if l.f != nil {
		err = flock(l.f)
	} else {
		err = nil
	}
	if busy || errors.Is(err, unix.EWOULDBLOCK) {
		held := &HeldError{Path: path, Name: name}
		// If the file is not locked, it names a holder that was killed.
		if h, ok := read(l.f); ok && err != nil {
			held.PID, held.Command, held.Since = h.PID, h.Command, h.Since
		}
		l.drop()
		return nil, held
	}
	if err != nil {
		l.drop()
		return nil, lockError(path, err)
	}
	if l.f != nil {
		record(l.f)
	}
	return l, nil
}

// roomless reports whether a file could not be created because the filesystem is full or
// read-only. That is no reason to work without a lock, or to give up.
func roomless(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS)
}

// drop unlocks and closes the files. Closing alone is not enough: between fork and
// exec, a child that another thread is starting has the open file too, and with it
// the lock.
func (l *Lock) drop() {
	if l.anchored != nil {
		_ = unix.FcntlFlock(l.anchored.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
		_ = l.anchored.Close()
	}
	if l.f != nil {
		_ = unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
		_ = l.f.Close() // nothing durable was written to it
	}
}

// AcquireWait is Acquire, but waits until the lock is free. If ctx ends first, it returns
// the last *HeldError joined with the cause.
func AcquireWait(ctx context.Context, dir, name string) (*Lock, error) {
	const first, most = 2 * time.Millisecond, 100 * time.Millisecond
	for pause := first; ; pause = min(2*pause, most) {
		l, err := Acquire(dir, name)
		var held *HeldError
		if !errors.As(err, &held) {
			return l, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(held, context.Cause(ctx))
		case <-timer.C:
		}
	}
}

// Release releases the lock. It may be nil or already released. The file stays: if it
// were removed, two processes could lock two different files of the same name.
func (l *Lock) Release() error {
	if l == nil {
		return nil
	}
	if l.f != nil {
		_ = l.f.Truncate(0) // its contents are only for messages
	}
	l.drop()
	l.f, l.anchored = nil, nil
	return nil
}

// open opens the lock file. It requires a folder that only we can write to: in another,
// any user could take the name first and keep us out.
func open(dir, file string) (*os.File, error) {
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	d, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(d) }()
	var st unix.Stat_t
	if err := unix.Fstat(d, &st); err != nil {
		return nil, err
	}
	if st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("%s belongs to user %d with permissions %04o: %w", dir, st.Uid, st.Mode&0o7777, errUnsafe)
	}
	fd, err := unix.Openat(d, file, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), file), nil
}

var errUnsafe = errors.New("others could write to it")

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// record writes the holder into the file. This is only for messages, and may fail for
// lack of space: the lock itself is in the kernel.
func record(f *os.File) {
	command := strings.Join(os.Args, " ")
	if len(command) > maxCommand {
		command = command[:maxCommand]
	}
	text, err := json.Marshal(holder{PID: os.Getpid(), Command: command, Since: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return
	}
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(text, 0)
	}
}

func read(f *os.File) (holder, bool) {
	if f == nil {
		return holder{}, false
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, maxContent))
	var h holder
	if err != nil || json.Unmarshal(text, &h) != nil {
		return holder{}, false
	}
	return h, true
}

func lockError(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	code := fault.Failed
	switch {
	case errors.Is(err, errUnsafe), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		code = fault.FileUnsafe
	case errors.Is(err, fs.ErrPermission):
		code = fault.PermissionMissing
	case errors.Is(err, unix.ENOSPC):
		code = fault.StorageFull
	}
	return &Error{Path: path, Code: code, Err: err}
}
