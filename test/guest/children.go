// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// children starts processes and collects every process that ends: its own and the
// orphans that PID 1 inherits. os/exec cannot be used next to a wait for any child,
// because each would take the other's exit statuses.
type children struct {
	mu    sync.Mutex // held over a fork: a status can only be looked up after the pid is known
	known map[int]chan syscall.WaitStatus
	ended chan os.Signal
}

func newChildren() *children {
	c := &children{known: map[int]chan syscall.WaitStatus{}, ended: make(chan os.Signal, 1)}
	signal.Notify(c.ended, syscall.SIGCHLD)
	return c
}

// start runs a program; its status arrives on the channel.
func (c *children) start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	status := make(chan syscall.WaitStatus, 1)
	c.known[pid] = status
	return pid, status, nil
}

func (c *children) reap() {
	for range c.ended {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || pid == 0 {
				break
			}
			c.mu.Lock()
			if done, ok := c.known[pid]; ok {
				done <- status
				delete(c.known, pid)
			}
			c.mu.Unlock()
		}
	}
}
