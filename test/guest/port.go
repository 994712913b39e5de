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
	"time"

	"golang.org/x/sys/unix"
)

// portName is the name that the host gives its virtio-serial port.
const portName = "imxcrypt.guest"

// port is the opened virtio-serial port. It is used with blocking system
// calls: the driver's poll reports a hang-up until the host's end is open, and
// its read then returns 0, which is not an end of file here.
type port struct{ fd int }

func openPort(limit time.Duration) (*port, error) {
	for end := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil || strings.TrimSpace(string(text)) != portName {
				continue
			}
			fd, err := unix.Open("/dev/"+filepath.Base(filepath.Dir(name)), unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, fmt.Errorf("open port: %w", err)
			}
			return &port{fd}, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no virtio-serial port named %s", portName)
		}
	}
}

func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(p.fd, b)
		switch {
		case n > 0:
			return n, nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		default:
			time.Sleep(2 * time.Millisecond)
		}
	}
}

func (p *port) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Write(p.fd, b[done:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.ErrShortWrite
		}
		done += n
	}
	return done, nil
}
