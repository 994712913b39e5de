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
	output bytes.Buffer // its own messages, to be read after ended
	ended  chan struct{}
	err    error // of the process, to be read after ended
}

// start starts the process so that it ends with this one, however that ends: a
// test binary that runs into its time limit cleans nothing up.
func (c *child) start() error {
	c.cmd.Stdout, c.cmd.Stderr = &c.output, &c.output
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The signal is tied to the life of the thread that starts the
		// process, so that thread is kept until the process has ended.
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
