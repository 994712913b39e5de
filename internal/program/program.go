// SPDX-License-Identifier: Apache-2.0

// Package program runs other programs: found in fixed places, with a clean
// environment, empty input, and their output captured and bounded.
package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

// Runner runs programs. Use its zero value; tests set other places.
type Runner struct {
	// Dirs are searched in order. Empty means /usr/sbin, /usr/bin, /sbin and /bin: never
	// the caller's PATH, which a user may have set.
	Dirs []string
	// Grace is the time between SIGTERM and SIGKILL when the context ends;
	// 0 means 5 s.
	Grace time.Duration
	// Keep is how many bytes are kept from the end of each stream, where a program says
	// why it failed; 0 means 64 KiB.
	Keep int
}

const (
	defaultGrace = 5 * time.Second
	maxOutput    = 64 << 10
)

func (r Runner) dirs() []string {
	if len(r.Dirs) > 0 {
		return r.Dirs
	}
	return []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}
}

// MissingError means that a program is not installed.
type MissingError struct {
	Name string
	Dirs []string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("program %s not found in %s", e.Name, strings.Join(e.Dirs, ", "))
}

// Is makes errors.Is(err, os.ErrNotExist) true.
func (e *MissingError) Is(target error) bool { return target == os.ErrNotExist }

// FaultCode implements fault.Coder.
func (e *MissingError) FaultCode() fault.Code { return fault.ProgramMissing }

// ExitError means that a program ran and failed.
type ExitError struct {
	Name   string
	Code   int            // exit status; -1 when killed
	Signal syscall.Signal // 0 unless killed
	// Output is the end of what it wrote, standard error last.
	Output []byte
	// Cause is the context's cause if we ended it, nil if it ended by itself.
	Cause error
}

func (e *ExitError) Error() string {
	var s string
	switch {
	case e.Cause != nil:
		s = fmt.Sprintf("%s was stopped: %v", e.Name, e.Cause)
	case e.Signal != 0:
		s = fmt.Sprintf("%s was killed by signal %d (%v)", e.Name, int(e.Signal), e.Signal)
	default:
		s = fmt.Sprintf("%s failed with exit status %d", e.Name, e.Code)
	}
	if words := ownWords(e.Output); words != "" {
		s += ": " + words
	}
	return s
}

func (e *ExitError) Unwrap() error { return e.Cause }

// FaultCode implements fault.Coder.
func (e *ExitError) FaultCode() fault.Code {
	if e.Cause != nil {
		return fault.Interrupted
	}
	return fault.ProgramFailed
}

// Result holds what a program wrote: the last Runner.Keep bytes of each stream.
type Result struct{ Stdout, Stderr []byte }

// Find returns the path of a program. A name with a slash is taken as a path,
// which must be absolute. The error is a *MissingError.
func (r Runner) Find(name string) (string, error) {
	dirs := r.dirs()
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			return "", &MissingError{Name: name, Dirs: dirs}
		}
		dirs = []string{filepath.Dir(name)}
	}
	for _, d := range dirs {
		path := filepath.Join(d, filepath.Base(name))
		st, err := os.Stat(path)
		if err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	return "", &MissingError{Name: name, Dirs: dirs}
}

// Run runs a program to its end. If ctx ends first, the program and its children get
// SIGTERM, and SIGKILL after the grace period. The error is a *MissingError, an
// *ExitError (the Result is then filled in as well), or says why the program could not be
// started. No secret may be among the arguments: every user can read them.
func (r Runner) Run(ctx context.Context, name string, args ...string) (Result, error) {
	path, err := r.Find(name)
	if err != nil {
		return Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return Result{}, fault.New(fault.Interrupted, "run "+name, context.Cause(ctx))
	}
	keep := r.Keep
	if keep == 0 {
		keep = maxOutput
	}
	out, errOut := tail{keep: keep}, tail{keep: keep}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=" + strings.Join(r.dirs(), ":"), "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &out, &errOut
	// A process group of its own: ^C then reaches only us, and we choose when to
	// end the program.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	grace := r.Grace
	if grace == 0 {
		grace = defaultGrace
	}
	done := make(chan struct{})
	stopped := false // by us; read after Wait
	cmd.Cancel = func() error {
		stopped = true
		group := -cmd.Process.Pid
		go func() {
			select {
			case <-done:
			case <-time.After(grace):
				_ = unix.Kill(group, unix.SIGKILL)
			}
		}()
		return unix.Kill(group, unix.SIGTERM)
	}
	// In case a child that left the group keeps our pipes open.
	cmd.WaitDelay = grace + time.Second
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			return Result{}, fault.New(fault.Interrupted, "run "+name, context.Cause(ctx))
		}
		return Result{}, fmt.Errorf("run %s: %w", path, err)
	}
	err = cmd.Wait()
	close(done)
	res := Result{Stdout: out.buf, Stderr: errOut.buf}
	if err == nil {
		return res, nil
	}
	return res, exitError(ctx, stopped, name, cmd, err, res)
}

func exitError(ctx context.Context, stopped bool, name string, cmd *exec.Cmd, err error, res Result) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) && !stopped {
		return fmt.Errorf("run %s: %w", name, err)
	}
	e := &ExitError{Name: name, Code: cmd.ProcessState.ExitCode()}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	}
	e.Output = bytes.Join([][]byte{res.Stdout, res.Stderr}, []byte("\n"))
	if stopped {
		e.Cause = context.Cause(ctx)
	}
	return e
}
