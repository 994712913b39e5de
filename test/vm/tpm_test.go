// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Between bind and listen the socket's file exists and connections are refused.
func TestListening(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	expect := func(want bool, when string) {
		t.Helper()
		if got, err := listening(socket); err != nil || got != want {
			t.Fatalf("listening %s: %v, %v; want %v", when, got, err, want)
		}
	}
	expect(false, "before there is a socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		t.Fatal(err)
	}
	expect(false, "after bind")
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	expect(true, "after listen")
}
