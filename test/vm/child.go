// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"os/exec"
	"runtime"
	"syscall"
)

// child is a process on the host.
type child struct {
	cmd    *exec.Cmd
	output bytes.Buffer // its own messages; read only after ended is closed
	ended  chan struct{}
	err    error // of the process; read only after ended is closed
}

// start starts a process that ends with this one, however this one ends: a test binary
// that runs into its time limit cleans up nothing.
func (c *child) start() error {
	c.cmd.Stdout, c.cmd.Stderr = &c.output, &c.output
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The signal is sent when the thread that started the process ends, so keep
		// that thread until the process has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	return <-started
}

// kill ends the process and waits for its end.
func (c *child) kill() {
	if c.cmd != nil && c.cmd.Process != nil {
		c.cmd.Process.Kill()
	}
	<-c.ended
}
