// SPDX-License-Identifier: Apache-2.0

// Package uevent waits for devices by what is announced of them
// (NETLINK_KOBJECT_UEVENT): by the kernel, and by udevd where there is one, whose
// announcement comes when its links are made. There is no polling.
package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Multicast groups: the kernel's own messages, and udevd's, which it sends on
// when its rules have run.
const (
	kernelGroup = 1 << 0
	udevGroup   = 1 << 1
)

// maxMessage is the kernel's limit of a message (UEVENT_BUFFER_SIZE) and more.
const maxMessage = 8192

// Listener hears of every block or character device that appears or changes
// after it was made.
type Listener struct{ fd int }

// Listen begins to listen. The kernel keeps what is announced from now on, so
// a look at the devices between Listen and Next misses nothing.
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

// Close ends the listening.
func (l *Listener) Close() error { return unix.Close(l.fd) }

// Next returns when a device was announced, or with ctx's error. Announcements
// that were lost because too many came at once count as one.
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
			// What udevd sends is not looked into: only root can send it, and
			// all that follows is a look at the devices.
			if ok && (sender.Pid != 0 || isDevice(buf[:n])) {
				return nil
			}
		}
	}
}

// wait sleeps until a message is there. Cancelling without a deadline is seen
// after a second at the latest.
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

// isDevice tells whether a message of the kernel's is of a device with a node
// that is there now. A message is "action@devpath", then KEY=value strings, each
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
