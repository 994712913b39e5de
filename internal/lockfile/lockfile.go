// SPDX-License-Identifier: Apache-2.0

// Package lockfile keeps two imxcrypt processes from working on one volume,
// and tells the second who the first is.
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

// Lock is a held lock. It ends with Release, or with the process: the kernel
// drops it however the process ends, so that there are no stale ones.
type Lock struct{ f *os.File }

// holder is what a lock file tells about who has it; record writes it.
type holder struct {
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

// HeldError is a lock that someone else has. PID is 0 where the holder had not
// yet said who it is.
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

// Error is a lock that could not be tried for.
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

// Acquire takes the lock of a name in dir, which it creates (0700) if it is
// missing. It does not wait: *HeldError says who has it. Other errors are
// *Error.
//
// The lock belongs to the open file (flock): a second Acquire in the same
// process is refused like that of any other, and programs started meanwhile
// do not inherit it.
func Acquire(dir, name string) (*Lock, error) {
	path := filepath.Join(dir, name+".lock")
	if name == "" || len(name) > maxName || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\x00") {
		return nil, &Error{Path: path, Code: fault.Usage, Err: fmt.Errorf("%q is no name for a lock", name)}
	}
	f, err := open(dir, name+".lock")
	if err != nil {
		return nil, lockError(path, err)
	}
	if err := flock(f); err != nil {
		held := &HeldError{Path: path, Name: name}
		if h, ok := read(f); ok {
			held.PID, held.Command, held.Since = h.PID, h.Command, h.Since
		}
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, held
		}
		return nil, lockError(path, err)
	}
	if err := record(f); err != nil {
		_ = f.Close()
		return nil, lockError(path, err)
	}
	return &Lock{f: f}, nil
}

// AcquireWait is Acquire that waits until the lock is free or ctx ends; it then
// returns the last *HeldError joined with why ctx ended.
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

// Release gives the lock back; nil and released locks are fine. The file
// stays: removing it would let two others lock two different files of one
// name.
func (l *Lock) Release() error {
	if l == nil || l.f == nil {
		return nil
	}
	err := errors.Join(l.f.Truncate(0), l.f.Close())
	l.f = nil
	return err
}

// open opens the lock file inside of a folder that only we can write to:
// elsewhere, anybody could take the name first and keep us out.
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

// record writes who has the lock. It is for messages alone: the lock is the
// kernel's.
func record(f *os.File) error {
	command := strings.Join(os.Args, " ")
	if len(command) > maxCommand {
		command = command[:maxCommand]
	}
	// Written out, since each boot does it: the tables that encoding/json makes
	// for a struct take longer than getting the lock.
	quoted, err := json.Marshal(command)
	if err != nil {
		return err
	}
	text := fmt.Appendf(nil, `{"pid":%d,"command":%s,"since":"%s"}`, os.Getpid(), quoted, time.Now().UTC().Format(time.RFC3339))
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	return err
}

func read(f *os.File) (holder, bool) {
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
