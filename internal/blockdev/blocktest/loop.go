// SPDX-License-Identifier: Apache-2.0

// Package blocktest makes real block devices for tests that run as root in a
// virtual machine.
package blocktest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a loop device.
type Options struct {
	ReadOnly   bool
	BlockSize  int  // logical block size in bytes; 0 is 512
	Partitions bool // have the kernel read its partition table
	// Setup fills the file before it becomes a device; may be nil.
	Setup func(file string)
}

// Loop makes a loop device of size bytes for the duration of a test, and returns its
// node. The file behind it is in the test's folder.
func Loop(t testing.TB, size int64, o Options) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	if o.Setup != nil {
		o.Setup(file)
	}
	back, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	config := unix.LoopConfig{Fd: uint32(back.Fd()), Size: uint32(o.BlockSize)}
	if o.ReadOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	if o.Partitions {
		config.Info.Flags |= unix.LO_FLAGS_PARTSCAN
	}
	path, loop := attach(t, &config)
	t.Cleanup(func() { detach(t, path, loop) })
	return path
}

// attach takes a free loop device. Another process may take it between the query and the
// attempt.
func attach(t testing.TB, config *unix.LoopConfig) (string, *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatalf("a free loop device: %v", err)
		}
		path := fmt.Sprintf("/dev/loop%d", number)
		loop, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), config)
		if err == nil {
			return path, loop
		}
		_ = loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			t.Fatalf("%s: %v", path, err)
		}
	}
}

func detach(t testing.TB, path string, loop *os.File) {
	t.Helper()
	err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0)
	if err := errors.Join(err, loop.Close()); err != nil {
		t.Errorf("detach %s: %v", path, err)
	}
	// The last close releases the file, which the test's folder must wait for.
	for range 6000 {
		if _, err := os.Stat("/sys/block/" + filepath.Base(path) + "/loop"); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s stays attached: something keeps it open", path)
}
