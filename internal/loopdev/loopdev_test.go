// SPDX-License-Identifier: Apache-2.0

package loopdev_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/loopdev"
)

// What needs a kernel's loop devices is tested with the recovery of an image,
// in test/scenario.
func TestWhatIsNoImageIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := loopdev.Attach("/dev/null"); fault.CodeOf(err) != fault.DeviceUnsuitable {
		t.Errorf("a character device: %v", err)
	}
	_, err := loopdev.Attach(filepath.Join(t.TempDir(), "none"))
	if fault.CodeOf(err) != fault.DeviceMissing || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// On a real kernel, a file gets one device, however often it is attached. The device
// disappears with its last user. No device is attached if another shows part of the file.
func TestImage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	first, one, err := loopdev.Images{}.Attach(path, 4096)
	if err != nil {
		t.Skipf("NOT TESTED: no loop devices here: %v", err)
	}
	second, two, err := loopdev.Images{}.Attach(path, 4096)
	if err != nil || second != first {
		t.Fatalf("%v, %v", second, err)
	}
	if over, err := (loopdev.Images{}).Over(path); err != nil || over != first {
		t.Fatalf("over it lies %q, %v", over, err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(first), name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	if read("loop/autoclear") != "1" || read("queue/logical_block_size") != "4096" || read("size") != "16384" {
		t.Errorf("autoclear %s, blocks of %s, %s sectors", read("loop/autoclear"), read("queue/logical_block_size"), read("size"))
	}
	if err := errors.Join(os.Truncate(path, 12<<20), loopdev.Images{}.Resized(first)); err != nil || read("size") != "24576" {
		t.Errorf("of 12 MiB it shows %s sectors, %v", read("size"), err)
	}
	if err := errors.Join(one.Close(), two.Close()); err != nil {
		t.Fatal(err)
	}
	if over, err := (loopdev.Images{}).Over(path); err != nil || over != "" {
		t.Fatalf("closed: over it lies %q, %v", over, err)
	}
}

// A file appears complete, with its blocks and for its owner alone, or not at all.
func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	if err := (loopdev.Images{}).Make(path, 4<<20); fault.Is(err, fault.DeviceUnsuitable) {
		t.Skipf("NOT TESTED: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != 4<<20 || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Blocks*512 < 4<<20 {
		t.Errorf("%d blocks are allocated", st.Blocks)
	}
	if err := (loopdev.Images{}).Make(path, 8<<20); !fault.Is(err, fault.FileExists) {
		t.Errorf("over a file: %v", err)
	}
	if err := (loopdev.Images{}).Make(filepath.Join(dir, "huge"), 1<<60); err == nil {
		t.Error("an exbibyte was made")
	}
	if err := (loopdev.Images{}).Make(filepath.Join(dir, "none", "image"), 4<<20); !fault.Is(err, fault.DeviceMissing) {
		t.Errorf("without a folder: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestRoom(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: only root's folders are taken")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	if err := (loopdev.Images{}).Room(path, 1<<20); err != nil {
		t.Error(err)
	}
	if err := (loopdev.Images{}).Room(path, 1<<60); !fault.Is(err, fault.StorageFull) {
		t.Errorf("an exbibyte: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := (loopdev.Images{}).Room(path, 1<<20); !fault.Is(err, fault.FileUnsafe) {
		t.Errorf("in anybody's folder: %v", err)
	}
}
