// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestVolatile(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "run", "imxcrypt")
	path := filepath.Join(dir, "data.unlocked")
	for _, want := range []string{"a longer first one", "second", ""} {
		if err := Volatile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := content(t, path); got != want {
			t.Errorf("%q, expected %q", got, want)
		}
	}
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, path: 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
	if got := names(t, dir); got != "[data.unlocked]" {
		t.Errorf("left in the folder: %s", got)
	}
}

// A reader finds one version or the other, whole, while the file is written.
func TestVolatileIsWholeForReaders(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data.unlocked")
	versions := []string{strings.Repeat("a", 3000), strings.Repeat("b", 2000)}
	if err := Volatile(path, []byte(versions[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if got := content(t, path); got != versions[0] && got != versions[1] {
					t.Errorf("%d bytes, %q…", len(got), got[:min(len(got), 8)])
					return
				}
			}
		})
	}
	for i := range 500 {
		if err := Volatile(path, []byte(versions[i%2]), 0o600); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	readers.Wait()
}

// A killed process of the same PID left its file. A planted link is not followed.
func TestVolatileTakesTheTemporaryNameBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "data.unlocked"), filepath.Join(dir, "victim")
	temp := filepath.Join(dir, ".data.unlocked."+strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, plant := range []func() error{
		func() error { return os.WriteFile(temp, []byte("half"), 0o644) },
		func() error { return os.Symlink(victim, temp) },
	} {
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if err := Volatile(path, []byte("new"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := content(t, path); got != "new" {
			t.Errorf("%q", got)
		}
		if st, err := os.Lstat(path); err != nil || st.Mode() != 0o600 {
			t.Errorf("%v, %v", st, err)
		}
	}
	if got := content(t, victim); got != "untouched" {
		t.Errorf("the link's target: %q", got)
	}
}

func TestVolatileFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	blocked := filepath.Join(dir, "folder")
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Volatile(blocked, []byte("x"), 0o600); !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EEXIST) {
		t.Errorf("over a folder: %v", err)
	}
	if got := names(t, dir); got != "[folder]" {
		t.Errorf("left in the folder: %s", got)
	}
	if err := Volatile("/dev/full/file", []byte("x"), 0o600); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
}
