// SPDX-License-Identifier: Apache-2.0

// Package uevent waits for devices by listening for uevents (NETLINK_KOBJECT_UEVENT):
// those of the kernel and, if udevd runs, those of udevd, which arrive once its links
// exist. It does not poll.
package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Multicast groups: the kernel's own messages, and those that udevd sends once its rules
// have run.
const (
	kernelGroup = 1 << 0
	udevGroup   = 1 << 1
)

// maxMessage exceeds the kernel's limit of a message (UEVENT_BUFFER_SIZE).
const maxMessage = 8192

// Listener receives the uevents of block and character devices.
type Listener struct{ fd int }

// Listen starts to listen. The kernel queues uevents from then on, so a caller that looks
// at the devices between Listen and Next misses nothing.
func Listen() (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listen for devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup | udevGroup}); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for devices: %w", err), unix.Close(fd))
	}
	return &Listener{fd: fd}, nil
}

// Close stops listening.
func (l *Listener) Close() error { return unix.Close(l.fd) }

// Next returns when a device is announced, or with ctx's error. Announcements that were
// lost because too many came at once count as one.
func (l *Listener) Next(ctx context.Context) error {
	buf := make([]byte, maxMessage)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, from, err := unix.Recvfrom(l.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := l.wait(ctx); err != nil {
				return err
			}
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			return nil
		case err != nil:
			return fmt.Errorf("listen for devices: %w", err)
		default:
			sender, ok := from.(*unix.SockaddrNetlink)
			// udevd's messages are not parsed: only root can send them, and all they
			// cause is a look at the devices.
			if ok && (sender.Pid != 0 || isDevice(buf[:n])) {
				return nil
			}
		}
	}
}

// wait waits for a message. It notices cancellation within a second.
func (l *Listener) wait(ctx context.Context) error {
	patience := time.Second
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, max(time.Until(deadline), time.Millisecond))
	}
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}, int(patience/time.Millisecond)+1)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("listen for devices: %w", err)
	}
	return nil
}

// isDevice reports whether a kernel message is about a device whose node now
// exists. A message is "action@devpath", then KEY=value strings, each
// ended by NUL.
func isDevice(message []byte) bool {
	fields := bytes.Split(message, []byte{0})
	if bytes.HasPrefix(fields[0], []byte("remove@")) {
		return false
	}
	for _, f := range fields[1:] {
		if bytes.HasPrefix(f, []byte("DEVNAME=")) {
			return true
		}
	}
	return false
}
