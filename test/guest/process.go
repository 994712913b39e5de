// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"imxcrypt/test/guest/wire"
)

// searchPath is the search path for programs, as for a root login on Debian.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// drainIdle is how long to wait for more output after a process has ended, counted from
// its last byte: a daemon that it left behind may hold the pipe open forever.
const drainIdle = 200 * time.Millisecond

type process struct {
	id   uint64
	pid  int
	done chan struct{} // closed when the process has ended
}

func environment(extra []string) []string {
	env := []string{"PATH=" + searchPath, "HOME=/root", "LC_ALL=C", "TMPDIR=/tmp", "TERM=dumb"}
	if os.Getpid() == 1 {
		// Debian's dmsetup would wait for udev, which does not run here.
		env = append(env, "DM_DISABLE_UDEV=1")
	}
	return append(env, extra...)
}

func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range strings.Split(searchPath, ":") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not found in %s", name, searchPath)
}

func (s *server) start(h wire.Header) {
	p := &process{id: h.ID, done: make(chan struct{})}
	if err := s.launch(p, h); err != nil {
		s.fail(h.ID, err)
	}
}

func openStdin(path string) (*os.File, error) {
	if path == "" {
		return os.Open(os.DevNull)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return f, os.Remove(path)
}

// launch starts the program in its own session, so that a signal to the group reaches
// every process that it started, and reports its output and its end.
func (s *server) launch(p *process, h wire.Header) error {
	path, err := lookPath(h.Argv[0])
	if err != nil {
		return err
	}
	stdin, err := openStdin(h.Stdin)
	if err != nil {
		return err
	}
	defer stdin.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer outW.Close()
	errR, errW, err := os.Pipe()
	if err != nil {
		outR.Close()
		return err
	}
	defer errW.Close()
	began := time.Now()
	pid, status, err := s.children.start(path, h.Argv, &syscall.ProcAttr{
		Dir: h.Dir, Env: environment(h.Env),
		Files: []uintptr{stdin.Fd(), outW.Fd(), errW.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		outR.Close()
		errR.Close()
		return fmt.Errorf("start %s: %w", path, err)
	}
	p.pid = pid
	s.mu.Lock()
	s.processes[p.id] = p
	s.mu.Unlock()
	s.send(wire.Header{ID: p.id, Op: wire.Started, PID: pid}, nil)

	var readers sync.WaitGroup
	readers.Go(func() { s.forward(p, 1, outR) })
	readers.Go(func() { s.forward(p, 2, errR) })
	go func() {
		st := <-status
		took := time.Since(began)
		close(p.done)
		// The output of the process is in the pipes; wake a reader that waits for more.
		outR.SetReadDeadline(time.Now().Add(drainIdle))
		errR.SetReadDeadline(time.Now().Add(drainIdle))
		readers.Wait()
		s.mu.Lock()
		delete(s.processes, p.id)
		s.mu.Unlock()
		end := wire.Header{ID: p.id, Op: wire.Exited, Code: st.ExitStatus(), Micros: took.Microseconds()}
		if st.Signaled() {
			end.Killed = int(st.Signal())
		}
		s.send(end, nil)
	}()
	return nil
}

// forward sends the output of the process until the pipe closes or, once the process
// has ended, no more arrives.
func (s *server) forward(p *process, stream int, f *os.File) {
	defer f.Close()
	buffer := make([]byte, wire.MaxPayload)
	for {
		n, err := f.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			n, err = readNow(f, buffer)
		}
		if n > 0 {
			s.send(wire.Header{ID: p.id, Op: wire.Output, Stream: stream}, buffer[:n])
		}
		if err != nil {
			return
		}
		select {
		case <-p.done:
			f.SetReadDeadline(time.Now().Add(drainIdle))
		default:
		}
	}
}

// readNow reads the available output without waiting. A reader that got no processor
// time before the deadline has not looked yet.
func readNow(f *os.File, buffer []byte) (n int, err error) {
	raw, err := f.SyscallConn()
	if err == nil {
		err = f.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return 0, err
	}
	failed := raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), buffer)
		return true
	})
	switch {
	case failed != nil:
		return 0, failed
	case err == nil && n == 0:
		return 0, io.EOF
	case err != nil:
		return 0, err
	}
	return n, nil
}

func (s *server) signal(h wire.Header) {
	p := s.process(h.ID)
	if p == nil {
		return // it has ended, and the host will read its Exited
	}
	target := p.pid
	if h.Group {
		target = -p.pid
	}
	if err := syscall.Kill(target, syscall.Signal(h.Signal)); err != nil && err != syscall.ESRCH {
		os.Stderr.WriteString("guest: signal: " + err.Error() + "\n")
	}
}
