// SPDX-License-Identifier: Apache-2.0

//go:build vm

package dmcrypt_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
)

type uevent struct{ action, cookie string }

// listen receives the kernel's uevents from now on; the returned function gives those of
// a device.
func listen(t *testing.T) func(dmcrypt.Number) []uevent {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		t.Fatal(err)
	}
	return func(n dmcrypt.Number) []uevent {
		var all []uevent
		buf := make([]byte, 16384)
		// The events were sent before the ioctls returned, except that of a removal.
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
			size, _, err := unix.Recvfrom(fd, buf, 0)
			if errors.Is(err, unix.EAGAIN) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			// "change@/devices/virtual/block/dm-0\0ACTION=change\0…"
			values := map[string]string{}
			for word := range strings.SplitSeq(string(buf[:size]), "\x00") {
				if key, value, ok := strings.Cut(word, "="); ok {
					values[key] = value
				}
			}
			if values["SUBSYSTEM"] == "block" && values["MAJOR"]+":"+values["MINOR"] == n.String() {
				all = append(all, uevent{values["ACTION"], values["DM_COOKIE"]})
			}
		}
		return all
	}
}
