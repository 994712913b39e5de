// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// names lists all entries of a folder, including hidden ones.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return fmt.Sprint(out)
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "data.bb")
	if err := Kernel().Create(path, []byte("blob"), 0o640); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o640 || content(t, path) != "blob" {
		t.Errorf("%v, %v", st, err)
	}
	if got := names(t, dir); got != "[data.bb]" {
		t.Errorf("left in the folder: %s", got)
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, make := range map[string]func(string) error{
		"file":          func(p string) error { return os.WriteFile(p, []byte("old"), 0o600) },
		"empty file":    func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"folder":        func(p string) error { return os.Mkdir(p, 0o700) },
		"dangling link": func(p string) error { return os.Symlink("nowhere", p) },
	} {
		path := filepath.Join(dir, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Lstat(path)
		err := Kernel().Create(path, []byte("new"), 0o600)
		after, _ := os.Lstat(path)
		if !errors.Is(err, fs.ErrExist) || fault.CodeOf(err) != fault.FileExists {
			t.Errorf("%s: %v", name, err)
		}
		if !os.SameFile(before, after) || before.Size() != after.Size() {
			t.Errorf("%s was touched", name)
		}
	}
}

// Between the check and the rename, another process may take the name.
func TestCreateRace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data.bb")
	var wins atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			err := Kernel().Create(path, fmt.Appendf(nil, "writer %02d", i), 0o600)
			switch {
			case err == nil:
				wins.Add(1)
			case !errors.Is(err, fs.ErrExist) && !errors.Is(err, ErrWriter):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wins.Load() != 1 || len(content(t, path)) != len("writer 00") {
		t.Errorf("%d writers created %q", wins.Load(), content(t, path))
	}
}

func TestRenameToATakenNameFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "taken"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := kernel{}.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.WriteFile(filepath.Join(dir, "temp"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.RenameNew("temp", "taken"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if err := d.RenameNew("temp", "free"); err != nil || content(t, filepath.Join(dir, "free")) != "new" {
		t.Errorf("to a free name: %v", err)
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "record")
	for _, text := range []string{"first", "second, longer", "3"} {
		if err := Kernel().Replace(path, []byte(text), 0o600); err != nil || content(t, path) != text {
			t.Errorf("Replace with %q: %v", text, err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := Kernel().Replace(link, nil, 0o600); !errors.Is(err, ErrLink) || fault.CodeOf(err) != fault.FileUnsafe || content(t, path) != "3" {
		t.Errorf("over a link: %v", err)
	}
	if err := Kernel().Replace(dir, nil, 0o600); err == nil {
		t.Error("over a folder: no error")
	}
	if err := Kernel().Settle(link); !errors.Is(err, ErrLink) || fault.CodeOf(err) != fault.FileUnsafe {
		t.Errorf("settle a link: %v", err)
	}
}

// A reader sees the old contents or the new, never a part or nothing.
func TestReplaceIsAtomic(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "record")
	a, b := bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 50_000)
	if err := Kernel().Replace(path, a, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(stop)
		for i := range 50 {
			if err := Kernel().Replace(path, [][]byte{b, a}[i%2], 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	for {
		select {
		case <-stop:
			wg.Wait()
			return
		default:
		}
		if got, err := Read(path, ReadOptions{}); err != nil || !bytes.Equal(got, a) && !bytes.Equal(got, b) {
			t.Fatalf("read %d bytes: %v", len(got), err)
		}
	}
}

// The next run reuses what a power cut left, whatever it contains.
func TestLeftoverIsReused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "data.bb")
	if err := os.WriteFile(filepath.Join(dir, ".data.bb.new"), []byte("half of something longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Kernel().Create(path, []byte("blob"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || content(t, path) != "blob" || st.Mode() != 0o600 || names(t, dir) != "[data.bb]" {
		t.Errorf("%v, %v, %s", st, err, names(t, dir))
	}
}

// A planted temporary file would show its owner what is written.
func TestPlantedTemporary(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(dir, temp string) error{
		"link":      func(dir, temp string) error { return os.Symlink(filepath.Join(dir, "victim"), temp) },
		"hard link": func(dir, temp string) error { return os.Link(filepath.Join(dir, "victim"), temp) },
		"fifo":      func(_, temp string) error { return unix.Mkfifo(temp, 0o666) },
	} {
		dir := t.TempDir()
		victim := filepath.Join(dir, "victim")
		if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := plant(dir, filepath.Join(dir, ".f.new")); err != nil {
			t.Fatal(err)
		}
		if err := Kernel().Create(filepath.Join(dir, "f"), []byte("x"), 0o600); fault.CodeOf(err) != fault.FileUnsafe {
			t.Errorf("%s: %v", name, err)
		}
		if content(t, victim) != "precious" {
			t.Errorf("%s: the file behind it was written", name)
		}
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "no", "file")
	if err := Kernel().Create(missing, nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a missing folder: %v", err)
	}
	long := filepath.Join(dir, string(bytes.Repeat([]byte("n"), 252)))
	if err := Kernel().Create(long, nil, 0o600); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("name too long: %v", err)
	}
	if got := names(t, dir); got != "[]" {
		t.Errorf("left in the folder: %s", got)
	}
	for _, p := range []string{"/", ".", "..", dir + "/.."} {
		if err := Kernel().Replace(p, nil, 0o600); err == nil {
			t.Errorf("Replace(%q): no error", p)
		}
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		if err := Kernel().Remove(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if err := Kernel().Remove(filepath.Dir(path)); err == nil {
		t.Error("a folder was removed")
	}
}

func TestMkdirAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a/b/c")
	for range 2 {
		if err := Kernel().MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(path); err != nil || !st.IsDir() || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Kernel().MkdirAll(filepath.Join(dir, "f/g"), 0o700); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		o    ReadOptions
		is   error
		code fault.Code
	}{
		{"file", ReadOptions{}, nil, ""},
		{"file", ReadOptions{MaxSize: 10, Forbid: 0o022}, nil, ""},
		{"link", ReadOptions{FollowLinks: true}, nil, ""},
		{"link", ReadOptions{}, ErrLink, fault.FileUnsafe},
		{"fifo", ReadOptions{}, ErrNotRegular, fault.FileUnsafe},
		{".", ReadOptions{}, ErrNotRegular, fault.FileUnsafe},
		{"file", ReadOptions{MaxSize: 9}, ErrTooLarge, fault.FileUnsafe},
		{"file", ReadOptions{Forbid: 0o044}, ErrMode, fault.FileUnsafe},
		{"none", ReadOptions{}, fs.ErrNotExist, fault.Failed},
	} {
		got, err := Read(filepath.Join(dir, c.name), c.o)
		if !errors.Is(err, c.is) || fault.CodeOf(err) != c.code || err == nil && string(got) != "0123456789" {
			t.Errorf("Read(%s, %+v) = %q, %v (fault %q)", c.name, c.o, got, err, fault.CodeOf(err))
		}
	}
}

func TestReadWantsRoot(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	owner := os.Geteuid()
	if owner == 0 {
		// Root's own file would be accepted. Only root can give it to another user.
		if err := os.Chown(file, 1234, -1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Read(file, ReadOptions{RootOwned: true}); !errors.Is(err, ErrOwner) || fault.CodeOf(err) != fault.FileUnsafe {
		t.Errorf("file of another user: %v", err)
	}
}
