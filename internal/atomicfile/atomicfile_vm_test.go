// SPDX-License-Identifier: Apache-2.0

//go:build vm

package atomicfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// On a full disk the old file stays as it was, and no new or temporary file is left.
func TestFullDisk(t *testing.T) {
	dir := tmpfs(t, "size=64k")
	old := filepath.Join(dir, "old")
	if err := atomicfile.Kernel().Create(old, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 128<<10)
	for name, write := range map[string]func() error{
		"replace": func() error { return atomicfile.Kernel().Replace(old, big, 0o600) },
		"create":  func() error { return atomicfile.Kernel().Create(filepath.Join(dir, "new"), big, 0o600) },
	} {
		if err := write(); !errors.Is(err, unix.ENOSPC) || fault.CodeOf(err) != fault.StorageFull {
			t.Errorf("%s: %v", name, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if got, err := os.ReadFile(old); err != nil || string(got) != "precious" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestReadOnlyFolder(t *testing.T) {
	dir := tmpfs(t, "")
	if err := atomicfile.Kernel().Create(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Kernel().Replace(filepath.Join(dir, "f"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("replace: %v", err)
	}
	if got, err := atomicfile.Read(filepath.Join(dir, "f"), atomicfile.ReadOptions{RootOwned: true, Forbid: 0o077}); err != nil || string(got) != "x" {
		t.Errorf("read: %q, %v", got, err)
	}
}
