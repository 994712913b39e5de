// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"imxcrypt/test/guest/wire"
)

// server answers the host. One goroutine reads frames; others do whatever may block.
type server struct {
	in       io.Reader
	outMu    sync.Mutex
	out      io.Writer
	children *children
	files    map[uint64]*os.File // being written by Put; used only by the reader

	mu        sync.Mutex
	processes map[uint64]*process
}

func newServer(p io.ReadWriter) *server {
	return &server{
		out:       p,
		in:        bufio.NewReaderSize(p, wire.MaxPayload),
		children:  newChildren(),
		files:     map[uint64]*os.File{},
		processes: map[uint64]*process{},
	}
}

// send reports to the host. An error means that the machine is going down, which the
// reader sees too.
func (s *server) send(h wire.Header, payload []byte) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	if err := wire.Write(s.out, h, payload); err != nil {
		os.Stderr.WriteString("guest: " + err.Error() + "\n")
	}
}

func (s *server) fail(id uint64, err error) {
	s.send(wire.Header{ID: id, Op: wire.Failed, Error: err.Error()}, nil)
}

func (s *server) serve() error {
	go s.children.reap()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	s.send(wire.Header{Op: wire.Hello, Kernel: unix.ByteSliceToString(name.Release[:])}, nil)
	for {
		h, payload, err := wire.Read(s.in)
		if err != nil {
			return err
		}
		switch h.Op {
		case wire.Start:
			s.start(h)
		case wire.Signal:
			s.signal(h)
		case wire.Put:
			s.put(h, payload)
		case wire.Get:
			go s.get(h)
		case wire.Power:
			if os.Getpid() == 1 {
				return nil
			}
			// The system's own poweroff, which ends this process with the others.
			if _, _, err := s.children.start("/sbin/poweroff", []string{"poweroff"}, &syscall.ProcAttr{Env: environment(nil)}); err != nil {
				return err
			}
		}
	}
}

func (s *server) process(id uint64) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.processes[id]
}
