// SPDX-License-Identifier: Apache-2.0

// Package mkfs makes and checks filesystems with their own programs.
//
// The device is always overwritten: the caller decides whether it may be. The
// programs never ask, and never discard the device: a discard through dm-crypt is
// either ignored or reveals what is used, takes seconds on some eMMCs, and leaves
// noise, not zeros.
package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/program"
)

// Maker makes and checks filesystems. Its zero value is ready to use.
type Maker struct {
	Programs program.Runner
}

// Options of a new filesystem.
type Options struct {
	Label string // the limits are the filesystem's: see LabelProblem
	// UUID is in the notation of the filesystem (vfat: "1A2B-3C4D"). If it is empty, or
	// the program cannot be given one, the program generates one. An option in Extra
	// overrides it. Read it back before relying on it.
	UUID string
	// SectorSize is that of the device below in bytes, 0 if it does not matter. The
	// filesystem must not use smaller blocks: dm-crypt answers a request smaller than its
	// sector with an I/O error.
	SectorSize int
	// Extra holds options from the configuration that CheckOptions accepts. They are
	// passed to the program before the device, and override what this package chooses.
	Extra []string

	size int64 // of the device in bytes; 0 if it is not known
}

// OptionError means that the filesystem cannot have an option.
type OptionError struct {
	Type   string
	Option string
	Reason string
}

func (e *OptionError) Error() string {
	return fmt.Sprintf("filesystem %s: option %s: %s", e.Type, e.Option, e.Reason)
}

// FaultCode implements fault.Coder.
func (e *OptionError) FaultCode() fault.Code { return fault.ConfigInvalid }

// Error means that a filesystem could not be made or checked. It wraps the
// *program.MissingError or *program.ExitError.
type Error struct {
	Op     string // "make ext4 on /dev/mapper/data"
	Code   fault.Code
	Reason string // what the exit status means; may be empty
	Err    error
}

func (e *Error) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("%s: %s: %v", e.Op, e.Reason, e.Err)
	}
	return fmt.Sprintf("%s: %v", e.Op, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// FaultCode implements fault.Coder.
func (e *Error) FaultCode() fault.Code { return e.Code }

func runError(op string, err error) error {
	return &Error{Op: op, Code: fault.CodeOf(err), Err: err}
}

// Types lists the filesystem types that Make can make.
func Types() []string { return []string{"ext4", "f2fs", "xfs", "btrfs", "vfat"} }

// Known reports whether Make can make a filesystem type.
func Known(fstype string) bool {
	_, ok := typeOf(fstype)
	return ok
}

// Programs names the programs that make and check a filesystem type. fsck is
// empty if mounting is the only check.
func Programs(fstype string) (mkfs, fsck string) {
	t, _ := typeOf(fstype)
	return t.mkfs, t.fsck
}

// Make makes a filesystem on a device, over whatever is there, and returns when it is
// durable. Errors are *OptionError, or *Error around the program's error.
func (m Maker) Make(ctx context.Context, fstype, device string, o Options) error {
	t, ok := typeOf(fstype)
	if !ok {
		return &OptionError{Type: fstype, Option: "type", Reason: "not known"}
	}
	o.size = sizeOf(device)
	args, err := t.arguments(o)
	if err != nil {
		return err
	}
	op := "make " + fstype + " on " + device
	_, err = m.Programs.Run(ctx, t.mkfs, append(args, device)...)
	if o.UUID != "" && refusesUUID(err) {
		o.UUID = ""
		if args, err = t.arguments(o); err != nil {
			return err
		}
		_, err = m.Programs.Run(ctx, t.mkfs, append(args, device)...)
	}
	if err != nil {
		return runError(op, err)
	}
	// Each program syncs in its own way. Flushing the device's own cache too is not left
	// to them.
	if err := flush(device); err != nil {
		return &Error{Op: op, Code: fault.IOFailed, Reason: "flush", Err: err}
	}
	return nil
}

// sizeOf returns a device's size, or 0 if it cannot be determined; the program then
// reports why.
func sizeOf(device string) int64 {
	f, err := os.Open(device)
	if err != nil {
		return 0
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0
	}
	return size
}

// refusesUUID reports whether a program failed because of the UUID: f2fs-tools before
// 1.13 have no option for it, and mkfs.btrfs refuses one that it finds on another device,
// even if that is this one by another name.
func refusesUUID(err error) bool {
	var exit *program.ExitError
	if !errors.As(err, &exit) || exit.Cause != nil {
		return false
	}
	for _, message := range []string{"invalid option -- 'U'", "unrecognized option: U", "non-unique UUID"} {
		if bytes.Contains(exit.Output, []byte(message)) {
			return true
		}
	}
	return false
}

func flush(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
