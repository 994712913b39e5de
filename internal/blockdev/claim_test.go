// SPDX-License-Identifier: Apache-2.0

// These tests need no kernel of their own, so they need not run on an emulated one.
//go:build !vm

package blockdev

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// A regular file is claimed with a lock, by one process at a time. A process that opens
// it without a claim is not kept out.
func TestAnExclusiveFileIsLocked(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.file("header", "content")
	path := filepath.Join(b.root, "header")
	first, err := b.Open(path, Flags{Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(path, Flags{Write: true, Exclusive: true}); fault.CodeOf(err) != fault.DeviceInUse || !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a second claim: %v (code %s)", err, fault.CodeOf(err))
	}
	d, err := b.Open(path, Flags{Write: true})
	if err != nil {
		t.Fatalf("without a claim: %v", err)
	}
	if err := errors.Join(d.Close(), first.Close()); err != nil {
		t.Fatal(err)
	}
	if d, err = b.Open(path, Flags{Write: true, Exclusive: true}); err != nil {
		t.Fatalf("freed again, but: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestALoopDeviceOverAFileIsAHolder(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.file("header", "content")
	b.file("other", "content")
	b.file("sys/class/block/loop0/uevent", "")
	b.file("sys/class/block/loop7/loop/backing_file", filepath.Join(b.root, "header")+"\n")
	_, err := b.Open(filepath.Join(b.root, "header"), Flags{Exclusive: true})
	var busy *BusyError
	if !errors.As(err, &busy) || !strings.Contains(err.Error(), "held by loop7") {
		t.Errorf("%v, expected it held by loop7", err)
	}
	d, err := b.Open(filepath.Join(b.root, "other"), Flags{Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
