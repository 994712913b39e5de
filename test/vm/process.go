// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"imxcrypt/test/guest/wire"
)

// Command is a program to run in the guest.
type Command struct {
	Argv    []string
	Env     []string // added to the guest's: PATH, HOME, LC_ALL=C, TMPDIR, DM_DISABLE_UDEV=1
	Dir     string   // default /
	Stdin   []byte   // default /dev/null
	Timeout time.Duration
}

// Result is the outcome of a program.
type Result struct {
	Code     int            // exit code, -1 if a signal ended the program
	Signal   syscall.Signal // that signal
	Stdout   string
	Stderr   string
	Duration time.Duration // in the guest, from fork to end
}

func (r Result) String() string {
	end := fmt.Sprintf("exit code %d", r.Code)
	if r.Signal != 0 {
		end = "ended by " + r.Signal.String()
	}
	return fmt.Sprintf("%s after %v\nstdout: %s\nstderr: %s", end, r.Duration.Round(time.Millisecond),
		tail(r.Stdout, 60), tail(r.Stderr, 60))
}

// Run runs a program to its end. Any exit code is fine, but the program must exist and
// the machine must stay on.
func (m *Machine) Run(argv ...string) Result {
	m.t.Helper()
	return m.RunCommand(Command{Argv: argv})
}

// Sh runs a shell script (dash, with busybox for programs that the image lacks).
func (m *Machine) Sh(script string) Result {
	m.t.Helper()
	return m.Run("sh", "-c", script)
}

// MustRun is Run for a program that must exit with 0. It returns its standard
// output.
func (m *Machine) MustRun(argv ...string) string {
	m.t.Helper()
	r := m.Run(argv...)
	if r.Code != 0 {
		m.t.Fatalf("%s: %v", strings.Join(argv, " "), r)
	}
	return r.Stdout
}

// MustSh is Sh for a script that must exit with 0; it stops at the first
// command that fails.
func (m *Machine) MustSh(script string) string {
	m.t.Helper()
	return m.MustRun("sh", "-e", "-c", script)
}

// RunCommand is Run with all options.
func (m *Machine) RunCommand(c Command) Result {
	m.t.Helper()
	r, err := m.TryRun(context.Background(), c)
	if err != nil {
		m.t.Fatalf("vm: %s: %v\n%v\n%s", strings.Join(c.Argv, " "), err, r, m.consoleTail())
	}
	return r
}

// TryRun runs a program to its end and returns an error if it could not. The error
// wraps ErrGone if the machine lost power meanwhile, and context.DeadlineExceeded if
// the program took too long and was killed. The result holds what had arrived by then.
func (m *Machine) TryRun(ctx context.Context, c Command) (Result, error) {
	p, err := m.spawn(c)
	if err != nil {
		return Result{Code: -1}, err
	}
	limit := c.Timeout
	if limit == 0 {
		limit = m.cfg.timeout()
	}
	stop := context.AfterFunc(ctx, func() { p.Signal(syscall.SIGKILL) })
	defer stop()
	if !p.call.wait(limit, never) {
		p.Signal(syscall.SIGKILL)
		p.call.wait(5*time.Second, never)
		r, _ := p.result()
		return r, fmt.Errorf("no end after %v: %w", limit, context.DeadlineExceeded)
	}
	r, err := p.result()
	return r, errors.Join(err, ctx.Err())
}

// Process is a program running in the guest.
type Process struct {
	m       *Machine
	call    *call
	channel *channel
	argv    []string
}

// Start runs a program in the background, in a session of its own.
func (m *Machine) Start(argv ...string) *Process {
	m.t.Helper()
	return m.StartCommand(Command{Argv: argv})
}

// StartCommand is Start with all options; the time limit is the one of Wait.
func (m *Machine) StartCommand(c Command) *Process {
	m.t.Helper()
	p, err := m.spawn(c)
	if err == nil && !p.call.wait(m.cfg.timeout(), func() bool { return p.call.started }) {
		err = context.DeadlineExceeded
	}
	if err == nil {
		p.call.mu.Lock()
		err = p.call.err
		p.call.mu.Unlock()
	}
	if err != nil {
		m.t.Fatalf("vm: start %s: %v\n%s", strings.Join(c.Argv, " "), err, m.consoleTail())
	}
	return p
}

func (m *Machine) spawn(c Command) (*Process, error) {
	if len(c.Argv) == 0 {
		return nil, errors.New("no program named")
	}
	g, err := m.on()
	if err != nil {
		return nil, err
	}
	k, err := g.channel.open()
	if err != nil {
		return nil, err
	}
	h := wire.Header{ID: k.id, Op: wire.Start, Argv: c.Argv, Env: c.Env, Dir: c.Dir}
	if c.Stdin != nil {
		h.Stdin = fmt.Sprintf("/tmp/.stdin-%d", k.id)
		if err := m.TryPut(h.Stdin, c.Stdin, 0o600); err != nil {
			return nil, err
		}
	}
	return &Process{m: m, call: k, channel: g.channel, argv: c.Argv}, g.channel.send(h, nil)
}

// PID returns the process's ID in the guest.
func (p *Process) PID() int {
	p.call.mu.Lock()
	defer p.call.mu.Unlock()
	return p.call.pid
}

// Stdout returns the standard output so far.
func (p *Process) Stdout() string {
	p.call.mu.Lock()
	defer p.call.mu.Unlock()
	return p.call.stdout.String()
}

// Stderr returns the standard error so far.
func (p *Process) Stderr() string {
	p.call.mu.Lock()
	defer p.call.mu.Unlock()
	return p.call.stderr.String()
}

// Signal sends a signal to the process alone. It does nothing if the process has ended.
func (p *Process) Signal(s syscall.Signal) { p.signal(s, false) }

// SignalAll sends a signal to the process and to every process it started that did not
// open its own session.
func (p *Process) SignalAll(s syscall.Signal) { p.signal(s, true) }

// Kill kills the process and everything it started.
func (p *Process) Kill() { p.signal(syscall.SIGKILL, true) }

func (p *Process) signal(s syscall.Signal, group bool) {
	// If the machine is gone, the process has ended.
	_ = p.channel.send(wire.Header{ID: p.call.id, Op: wire.Signal, Signal: int(s), Group: group}, nil)
}

// Running reports whether the process is still running.
func (p *Process) Running() bool {
	p.call.mu.Lock()
	defer p.call.mu.Unlock()
	return !p.call.done
}

// WaitFor waits until the text appears in either output stream.
func (p *Process) WaitFor(text string, limit time.Duration) {
	p.m.t.Helper()
	found := func() bool {
		return strings.Contains(p.call.stdout.String(), text) || strings.Contains(p.call.stderr.String(), text)
	}
	ok := p.call.wait(limit, found)
	p.call.mu.Lock()
	ok = ok && found()
	p.call.mu.Unlock()
	if !ok {
		r, _ := p.result()
		p.m.t.Fatalf("vm: %s did not print %q within %v: %v", strings.Join(p.argv, " "), text, limit, r)
	}
}

// Wait waits until the process ends, up to the machine's time limit.
func (p *Process) Wait() Result {
	p.m.t.Helper()
	r, err := p.TryWait(p.m.cfg.timeout())
	if err != nil {
		p.m.t.Fatalf("vm: %s: %v\n%v\n%s", strings.Join(p.argv, " "), err, r, p.m.consoleTail())
	}
	return r
}

// TryWait waits until the process ends. The error wraps ErrGone if the machine lost
// power first, or context.DeadlineExceeded if the limit expired.
func (p *Process) TryWait(limit time.Duration) (Result, error) {
	if !p.call.wait(limit, never) {
		r, _ := p.result()
		return r, fmt.Errorf("no end after %v: %w", limit, context.DeadlineExceeded)
	}
	return p.result()
}

func (p *Process) result() (Result, error) {
	k := p.call
	k.mu.Lock()
	defer k.mu.Unlock()
	r := Result{
		Code: k.end.Code, Signal: syscall.Signal(k.end.Killed),
		Stdout: k.stdout.String(), Stderr: k.stderr.String(),
		Duration: time.Duration(k.end.Micros) * time.Microsecond,
	}
	if !k.done || k.err != nil {
		r.Code = -1
	}
	return r, k.err
}
