// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// fixedPATH is where programs are looked for, whatever the caller's
// environment says; caam-keygen itself calls mkdir through a shell.
const fixedPATH = "/usr/sbin:/usr/bin:/sbin:/bin"

// said is what the program left besides its files.
type said struct {
	text string
	// exit is nil for exit status 0, which says nothing.
	exit error
}

// run starts the program from the calling thread and waits for it. What it
// says is cut to a size and cleaned; it never says key material, except that
// it prints a buffer it has not filled when the driver left no text there.
//
// The error is ctx's, or an [*Error] of kind NoProgram where it cannot be
// started.
func (p *Program) run(ctx context.Context, args ...string) (said, error) {
	var out head
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Env = []string{"PATH=" + fixedPATH, "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	// It must not outlive us with a black key at hand. The signal follows the
	// thread that started it, which waits here.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return said{}, ctx.Err()
	case err == nil, errors.As(err, &exit):
		return said{text: out.sentence(), exit: err}, nil
	default:
		return said{}, p.fail(args[0], NoProgram, "the program cannot be started", err)
	}
}

// explain adds what the program said to an error.
func (s said) explain(e *Error) *Error {
	e.Text = s.text
	if e.Err == nil {
		e.Err = s.exit
	}
	return e
}

// failure gives an operation that yielded nothing its kind, by the program's
// words and the driver's, which it passes on.
func (s said) failure(e *Error) *Error {
	e = s.explain(e)
	has := func(words string) bool { return strings.Contains(s.text, words) }
	switch {
	case has("Unable to open device"):
		e.Kind, e.Reason = NoDevice, "the program found no /dev/caam-keygen: the kernel has no caam-keygen driver, or its module is not loaded"
	case s.exit == nil && s.text == "" && e.Op == "import":
		e.Kind = Rejected
		e.Reason = "the program opened no key and did not say why: as a rule the hardware rejected the blob, which was made by another chip or in another security state, or is damaged"
	}
	return e
}

// head keeps the start of what is written to it.
type head struct{ kept bytes.Buffer }

const headSize = 2048

func (h *head) Write(b []byte) (int, error) {
	if room := headSize - h.kept.Len(); room > 0 {
		h.kept.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

// sentence is the first line that is a message: the usage that the program
// prints after each failure is none, nor is memory it printed by mistake.
func (h *head) sentence() string {
	const usage = "CAAM keygen usage"
	for line := range strings.Lines(h.kept.String()) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, usage) {
			return ""
		}
		if isMessage(line) {
			return line
		}
	}
	return ""
}

func isMessage(line string) bool {
	if len(line) < 8 || len(line) > 200 || !strings.Contains(line, " ") {
		return false
	}
	for _, c := range []byte(line) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
