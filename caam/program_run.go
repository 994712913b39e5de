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

// fixedPATH is where programs are searched for, whatever the caller's environment says;
// caam-keygen itself calls mkdir through a shell.
const fixedPATH = "/usr/sbin:/usr/bin:/sbin:/bin"

// outcome is the program's result besides its files.
type outcome struct {
	text string
	// exit is nil for exit status 0, which means nothing.
	exit error
}

// run starts the program from the calling thread and waits for it. Its output is
// truncated and cleaned. The program never prints key material, except for an
// uninitialized buffer if the driver left no text there.
//
// The error is ctx's, or an [*Error] of kind NoProgram if it cannot be started.
func (p *Program) run(ctx context.Context, args ...string) (outcome, error) {
	var out head
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Env = []string{"PATH=" + fixedPATH, "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &out, &out
	stopped := false // by us; read after Run
	cmd.Cancel = func() error {
		stopped = true
		return cmd.Process.Signal(syscall.SIGTERM)
	}
	cmd.WaitDelay = 2 * time.Second
	// The program must not outlive this process with a black key at hand. The signal
	// depends on the thread that started it, which waits here.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case stopped, errors.Is(err, ctx.Err()) && err != nil:
		return outcome{}, ctx.Err()
	case err == nil, errors.As(err, &exit):
		return outcome{text: out.sentence(), exit: err}, nil
	default:
		return outcome{}, p.fail(args[0], NoProgram, "the program cannot be started", err)
	}
}

// explain adds what the program said to an error.
func (o outcome) explain(e *Error) *Error {
	e.Text = o.text
	if e.Err == nil {
		e.Err = o.exit
	}
	return e
}

// failure classifies an operation without a result by the messages of the program and the
// driver.
func (o outcome) failure(e *Error) *Error {
	e = o.explain(e)
	has := func(words string) bool { return strings.Contains(o.text, words) }
	switch {
	case has("Unable to open device"):
		e.Kind, e.Reason = NoDevice, "the program found no /dev/caam-keygen: the kernel has no caam-keygen driver, or its module is not loaded"
	case o.exit == nil && o.text == "" && e.Op == "import":
		e.Kind = Rejected
		e.Reason = "the program opened no key and did not say why: as a rule the hardware rejected the blob, which was made by another chip or in another security state, or is damaged"
	}
	return e
}

// head is a writer that keeps the start of its input.
type head struct{ kept bytes.Buffer }

const headSize = 2048

func (h *head) Write(b []byte) (int, error) {
	if room := headSize - h.kept.Len(); room > 0 {
		h.kept.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

// sentence returns the first line that is a message: not the usage that the program
// prints after each failure, nor memory printed by mistake.
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
