// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"imxcrypt/internal/fault"
)

// Process is a process that keeps a mount busy.
type Process struct {
	PID     int
	Command string // the kernel's name of it, at most 15 bytes
	How     string // "working folder", "root folder", "program", "open file", "mapped file"
	Path    string // the file or folder it uses
}

// Users is what keeps a mount busy, as far as can be determined.
type Users struct {
	Processes []Process
	Mounts    []string // mount points below
	Loops     []string // loop devices whose file is in it
	Swap      []string // swap files in it
}

// String returns one line for a message; it is empty if no user was found.
func (u Users) String() string {
	var parts []string
	for i, p := range u.Processes {
		if i == maxNamed {
			parts = append(parts, fmt.Sprintf("%d more processes", len(u.Processes)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("process %d (%s): %s %s", p.PID, p.Command, p.How, p.Path))
	}
	for _, m := range u.Mounts {
		parts = append(parts, "mount on "+m)
	}
	for _, l := range u.Loops {
		parts = append(parts, "loop device "+l)
	}
	for _, s := range u.Swap {
		parts = append(parts, "swap file "+s)
	}
	return strings.Join(parts, ", ")
}

// maxNamed is the number of processes that a message names.
const maxNamed = 5

// BusyError means that a mount is in use. errors.Is finds EBUSY in it.
type BusyError struct {
	Target string
	Users  Users
	Err    error
}

func (e *BusyError) Error() string {
	if s := e.Users.String(); s != "" {
		return fmt.Sprintf("unmount %s: in use: %s", e.Target, s)
	}
	return fmt.Sprintf("unmount %s: %v: by something that no process shows", e.Target, e.Err)
}

func (e *BusyError) Unwrap() error { return e.Err }

// FaultCode implements fault.Coder.
func (e *BusyError) FaultCode() fault.Code { return fault.MountBusy }

// FindUsers finds what keeps the mount on target busy. It reads only names, never the
// files, so that a hanging filesystem does not hang it. Processes may come, go or be
// invisible: the result is for messages.
func FindUsers(target string) (Users, error) { return findUsers("/proc", "/sys", target) }

func findUsers(proc, sys, target string) (Users, error) {
	var u Users
	entries, err := ListAt(proc)
	for _, e := range entries {
		if e.Target != target && inside(e.Target, target) {
			u.Mounts = append(u.Mounts, e.Target)
		}
	}
	u.Processes = findProcesses(proc, target)
	u.Loops = findLoops(sys, target)
	u.Swap = findSwap(proc, target)
	return u, err
}

// inside reports whether path is target or below it.
func inside(path, target string) bool {
	if target == "/" {
		return strings.HasPrefix(path, "/")
	}
	rest, ok := strings.CutPrefix(path, target)
	return ok && (rest == "" || rest[0] == '/')
}

func findProcesses(proc, target string) []Process {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	var out []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		if how, path, ok := usesTarget(dir, target); ok {
			command, _ := os.ReadFile(filepath.Join(dir, "comm"))
			out = append(out, Process{PID: pid, Command: strings.TrimSpace(string(command)), How: how, Path: path})
		}
	}
	return out
}

// usesTarget finds the first use that a process makes of a mount.
func usesTarget(dir, target string) (how, path string, ok bool) {
	for _, l := range []struct{ name, how string }{{"cwd", "working folder"}, {"root", "root folder"}, {"exe", "program"}} {
		path, err := os.Readlink(filepath.Join(dir, l.name))
		// Nearly every process has the root folder /.
		if err == nil && inside(path, target) && (l.name != "root" || path != "/") {
			return l.how, path, true
		}
	}
	fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
	for _, fd := range fds {
		if path, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err == nil && inside(path, target) {
			return "open file", path, true
		}
	}
	maps, _ := os.ReadFile(filepath.Join(dir, "maps"))
	for _, line := range strings.Split(string(maps), "\n") {
		// Only the path contains slashes; it is the rest of the line.
		if i := strings.IndexByte(line, '/'); i >= 0 && inside(line[i:], target) {
			return "mapped file", line[i:], true
		}
	}
	return "", "", false
}

func findLoops(sys, target string) []string {
	files, _ := filepath.Glob(filepath.Join(sys, "block/loop*/loop/backing_file"))
	var out []string
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && inside(strings.TrimSuffix(string(b), "\n"), target) {
			out = append(out, filepath.Base(filepath.Dir(filepath.Dir(f))))
		}
	}
	return out
}

func findSwap(proc, target string) []string {
	b, err := os.ReadFile(filepath.Join(proc, "swaps"))
	if err != nil {
		return nil
	}
	var out []string
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) > 1 && f[1] == "file" && inside(unescape(f[0]), target) {
			out = append(out, unescape(f[0]))
		}
	}
	return out
}
