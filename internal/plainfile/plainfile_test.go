// SPDX-License-Identifier: Apache-2.0

package plainfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/plainfile"
)

// Read behaves like os.ReadFile for any size, even if the kernel reports none.
func TestReadIsReadFile(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 4095, 4096, 4097, 8192, 100_000} {
		path := filepath.Join(t.TempDir(), "file")
		want := bytes.Repeat([]byte("imxcrypt"), size/8+1)[:size]
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := plainfile.Read(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d were read: %v", size, len(got), err)
		}
	}
	want, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := plainfile.Read("/proc/self/cgroup"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q instead of %q: %v", got, want, err)
	}
}

func TestErrorsAreThoseOfPackageOS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "missing"), filepath.Join(dir, "missing", "file"), dir} {
		_, want := os.ReadFile(path)
		_, got := plainfile.Read(path)
		if got == nil || got.Error() != want.Error() {
			t.Errorf("%v instead of %v", got, want)
		}
		if !errors.Is(got, errors.Unwrap(want)) {
			t.Errorf("%v has not the errno of %v", got, want)
		}
	}
}

func TestOpenedFilesReachNoChild(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := plainfile.Open(path, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x: %v", flags, err)
	}
	if _, err := f.WriteString("x"); err != nil {
		t.Error(err)
	}
	if _, err := plainfile.Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v instead of %v", err, fs.ErrExist)
	}
}

func TestAttribute(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "size")
	for content, want := range map[string]string{"8192\n": "8192", "8192": "8192", "": "", "two\nlines\n": "two\nlines"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := plainfile.Attribute(path); err != nil || got != want {
			t.Errorf("%q of %q, %v", got, content, err)
		}
	}
	for path, want := range map[string]error{filepath.Join(dir, "missing"): unix.ENOENT, dir: unix.EISDIR} {
		if _, err := plainfile.Attribute(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, expected %v", path, err, want)
		}
	}
}
