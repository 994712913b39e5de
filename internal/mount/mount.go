// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"imxcrypt/internal/devnum"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/klog"

	"golang.org/x/sys/unix"
)

// Error means that the kernel refused a mount or unmount.
type Error struct {
	Op     string // "mount /dev/mapper/data on /data (ext4)", "unmount /data"
	Code   fault.Code
	Reason string // what the errno means here; may be empty
	Err    error
	// KernelLog is what the kernel logged about the device meanwhile; empty if it cannot
	// be read.
	KernelLog []string
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %v", e.Op, e.Err)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	if len(e.KernelLog) > 0 {
		text += " (kernel: " + strings.Join(e.KernelLog, "; ") + ")"
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// FaultCode implements fault.Coder.
func (e *Error) FaultCode() fault.Code { return e.Code }

// ErrNotMounted means that nothing is mounted on a target.
var ErrNotMounted = errors.New("not mounted")

// System is the running system.
type System struct{}

// Mount mounts the filesystem of a device on an existing folder that nothing
// is mounted on. options are words as in fstab, see ParseOptions. Errors are
// *OptionError, *TargetError or *Error.
func (s System) Mount(source, target, fstype string, options []string) error {
	flags, data, err := ParseOptions(options)
	if err != nil {
		return err
	}
	t, err := s.Look(target)
	if err != nil {
		return err
	}
	if err := t.Usable(); err != nil {
		return err
	}
	mark := klog.Now(klog.Path)
	defer mark.Close()
	if err := unix.Mount(source, t.Path, fstype, flags, data); err != nil {
		messages := kernelMessages(&mark, source, fstype)
		code, reason := explainMount(err, fstype, flags&unix.MS_RDONLY != 0, strings.ToLower(strings.Join(messages, "\n")))
		return &Error{Op: fmt.Sprintf("mount %s on %s (%s)", source, target, fstype), Code: code, Reason: reason, Err: err, KernelLog: messages}
	}
	return nil
}

// maxMessages is the number of the kernel's messages that an error quotes.
const maxMessages = 3

// kernelMessages returns what the kernel has logged since the mark about a device, or
// about the filesystem type if it names no device.
func kernelMessages(mark *klog.Mark, source, fstype string) (messages []string) {
	name := source
	if path, err := filepath.EvalSymlinks(source); err == nil {
		name = path
	}
	var st unix.Stat_t
	if unix.Stat(source, &st) == nil {
		if link, err := os.Readlink("/sys/dev/block/" + devnum.Of(st.Rdev).String()); err == nil {
			name = link
		}
	}
	name = filepath.Base(name)
	for _, r := range mark.Since(func(r klog.Record) bool {
		return r.Facility == 0 && (strings.Contains(r.Text, name) || strings.HasPrefix(strings.ToLower(r.Text), fstype))
	}) {
		messages = append(messages, r.Text)
	}
	return messages[:min(len(messages), maxMessages)]
}

// explainMount explains an errno of mount(2) for a device. messages is what the kernel
// logged, in lower case.
func explainMount(err error, fstype string, readOnly bool, messages string) (fault.Code, string) {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(messages, w) })
	}
	switch {
	case errors.Is(err, unix.EINVAL) && has("block size", "byte sectors", "sector size", "blocksize"):
		return fault.FilesystemWrong, "its blocks do not fit the sectors of this device"
	case errors.Is(err, unix.EINVAL) && has("mount option", "unknown parameter", "bad value", "unrecognized"):
		return fault.ConfigInvalid, "mount.options holds one that " + fstype + " does not take"
	case errors.Is(err, unix.EINVAL) && has("journal", "corrupt", "checksum", "damaged", "log mount", "recovery"):
		return fault.FilesystemDamaged, "the filesystem is damaged"
	case errors.Is(err, unix.EROFS) && readOnly:
		return fault.DeviceReadOnly, unreplayed(fstype)
	case errors.Is(err, unix.ENODEV):
		return fault.Failed, "this kernel has no " + fstype + ", or its module is not installed"
	case errors.Is(err, unix.EBUSY):
		return fault.MountBusy, "the device is in use otherwise"
	case errors.Is(err, unix.EINVAL):
		return fault.FilesystemWrong, "no " + fstype + " there, or an option that it does not know"
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
		return fault.DeviceReadOnly, "the device is read-only and the mount is not"
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EBADMSG):
		return fault.FilesystemDamaged, "the filesystem is damaged"
	case errors.Is(err, unix.EILSEQ), errors.Is(err, unix.EIO):
		return fault.IOFailed, "the filesystem or the device is damaged"
	case errors.Is(err, unix.EPERM):
		return fault.PermissionMissing, ""
	case errors.Is(err, unix.ENOENT):
		return fault.DeviceMissing, ""
	}
	return fault.Failed, ""
}

// unreplayed explains why a read-only device could not even be mounted read-only: the
// filesystem was in use when power was cut, and has a journal to replay.
func unreplayed(fstype string) string {
	const why = "it was not unmounted when it was last used, and its journal cannot be replayed on a read-only device; allow writes to the device once"
	option := map[string]string{"ext3": "noload", "ext4": "noload", "xfs": "norecovery", "f2fs": "norecovery", "btrfs": "rescue=nologreplay"}[fstype]
	if option == "" {
		return why
	}
	return why + ", or mount it without what the journal holds: mount option " + option
}

// Unmount unmounts what is mounted on target, or the topmost of several mounts. The error
// wraps ErrNotMounted if nothing is mounted, or is a *BusyError that names the users.
// Unmount returns when the filesystem is written out.
func (s System) Unmount(target string) error {
	t, err := s.Look(target)
	if err != nil {
		return err
	}
	if t.Mounted == nil {
		return &Error{Op: "unmount " + target, Code: fault.Failed, Err: ErrNotMounted}
	}
	err = unix.Unmount(t.Path, unix.UMOUNT_NOFOLLOW)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		users, _ := FindUsers(t.Path) // without names it is busy all the same
		return &BusyError{Target: target, Users: users, Err: err}
	case errors.Is(err, unix.EINVAL):
		return &Error{Op: "unmount " + target, Code: fault.Failed, Err: ErrNotMounted}
	case errors.Is(err, unix.EPERM):
		return &Error{Op: "unmount " + target, Code: fault.PermissionMissing, Err: err}
	}
	return &Error{Op: "unmount " + target, Code: fault.IOFailed, Err: err}
}

// Idle checks that what is mounted on target could be unmounted now, and leaves it
// mounted. The error is that of Unmount.
func (s System) Idle(target string) error {
	t, err := s.Look(target)
	if err != nil {
		return err
	}
	// This only marks the mount, and using it removes the mark (umount2(2)).
	if err := unix.Unmount(t.Path, unix.UMOUNT_NOFOLLOW|unix.MNT_EXPIRE); errors.Is(err, unix.EBUSY) {
		users, _ := FindUsers(t.Path)
		return &BusyError{Target: target, Users: users, Err: err}
	}
	return nil
}

// TargetState is the state of a mount point.
type TargetState string

const (
	TargetFree         TargetState = "free" // a folder that nothing is mounted on
	TargetMissing      TargetState = "missing"
	TargetNotDirectory TargetState = "not-a-directory"
	TargetOccupied     TargetState = "occupied" // something is mounted on it
)

// Target is a mount point as it was found.
type Target struct {
	// Path is the mount point without symbolic links, as mountinfo has it.
	Path  string
	State TargetState
	// Mounted is the topmost mount there; nil unless State is
	// TargetOccupied.
	Mounted *Entry
}

// TargetError means that a mount point cannot be used.
type TargetError struct{ Target Target }

func (e *TargetError) Error() string {
	switch e.Target.State {
	case TargetMissing:
		return "mount point " + e.Target.Path + " does not exist"
	case TargetNotDirectory:
		return "mount point " + e.Target.Path + " is not a folder"
	}
	return fmt.Sprintf("mount point %s is occupied by %s (%s)", e.Target.Path, e.Target.Mounted.Source, e.Target.Mounted.Type)
}

// FaultCode implements fault.Coder.
func (e *TargetError) FaultCode() fault.Code {
	if e.Target.State == TargetOccupied {
		return fault.MountPointOccupied
	}
	return fault.MountPointMissing
}

// Usable returns nil for a free target and a *TargetError for any other.
func (t Target) Usable() error {
	if t.State == TargetFree {
		return nil
	}
	return &TargetError{Target: t}
}

// Look returns the state of a mount point, which must be an absolute path.
func (System) Look(target string) (Target, error) { return LookAt("/proc", target) }

// LookAt is Look with another root for /proc.
func LookAt(proc, target string) (Target, error) {
	if !filepath.IsAbs(target) {
		return Target{}, &Error{Op: "look at mount point " + target, Code: fault.Usage, Err: errors.New("not an absolute path")}
	}
	t := Target{Path: filepath.Clean(target), State: TargetFree}
	path, err := filepath.EvalSymlinks(t.Path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		t.State = TargetMissing
		return t, nil
	}
	if err != nil {
		return Target{}, &Error{Op: "look at mount point " + target, Code: fault.IOFailed, Err: err}
	}
	t.Path = path
	// The kernel can only be asked about the running system.
	if proc == "/proc" && free(path) {
		return t, nil
	}
	entries, err := ListAt(proc)
	if err != nil {
		return Target{}, err
	}
	for i := range entries {
		if entries[i].Target == path {
			t.State, t.Mounted = TargetOccupied, &entries[i]
		}
	}
	if t.Mounted != nil {
		return t, nil
	}
	if st, err := os.Stat(path); err != nil || !st.IsDir() {
		t.State = TargetNotDirectory
	}
	return t, nil
}

// free reports whether a path is certainly a folder that nothing is mounted on. The
// kernel reports that (statx, since Linux 5.8) in one call, without the list of mounts.
// If false, the list decides.
func free(path string) bool {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st) != nil {
		return false
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 &&
		st.Mode&unix.S_IFMT == unix.S_IFDIR
}
