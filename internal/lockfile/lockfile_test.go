// SPDX-License-Identifier: Apache-2.0

package lockfile

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary play the other process.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "hold" {
		l, err := Acquire(os.Args[2], os.Args[3])
		if err != nil {
			os.Stdout.WriteString("error: " + err.Error() + "\n")
			os.Exit(1)
		}
		os.Stdout.WriteString("held\n")
		_, _ = os.Stdin.Read(make([]byte, 1))
		_ = l.Release()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// other starts a process that holds the lock until it is killed or its input is closed.
func other(t *testing.T, dir, name string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "hold", dir, name)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "held\n" {
		t.Fatalf("other process: %q, %v", line, err)
	}
	return cmd
}

func folder(t *testing.T) string { return filepath.Join(t.TempDir(), "run") }

func TestTheErrorNamesTheHolder(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	cmd := other(t, dir, "data")
	l, err := Acquire(dir, "data")
	var held *HeldError
	if l != nil || !errors.As(err, &held) || fault.CodeOf(err) != fault.LockHeld || !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatalf("%v, %v, want a *HeldError", l, err)
	}
	if held.PID != cmd.Process.Pid || !strings.HasSuffix(held.Command, "hold "+dir+" data") || time.Since(held.Since) > time.Minute {
		t.Errorf("%+v", held)
	}
	if l, err := Acquire(dir, "log"); err != nil {
		t.Errorf("another volume's lock: %v", err)
	} else if err := l.Release(); err != nil {
		t.Error(err)
	}
}

// A killed process leaves its file, but no lock.
func TestKilledHolderLeavesNoLock(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	cmd := other(t, dir, "data")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	l, err := Acquire(dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

func TestSecondInTheSameProcess(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l, err := Acquire(dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if _, err := Acquire(dir, "data"); !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Errorf("%v", err)
	}
	for range 2 {
		if err := l.Release(); err != nil {
			t.Error(err)
		}
	}
	if l, err = Acquire(dir, "data"); err != nil {
		t.Errorf("after Release: %v", err)
	}
	_ = l.Release()
	if err := (*Lock)(nil).Release(); err != nil {
		t.Error(err)
	}
}

// A program that we start must not inherit the lock.
func TestChildDoesNotInherit(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l, err := Acquire(dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "10")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	l, err = Acquire(dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Release()
}

func TestWait(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l, err := Acquire(dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := AcquireWait(ctx, dir, "data"); !errors.Is(err, context.DeadlineExceeded) || fault.CodeOf(err) != fault.LockHeld {
		t.Errorf("held all the time: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = l.Release() })
	got, err := AcquireWait(t.Context(), dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	_ = got.Release()
}

// Only the kernel's lock counts, whatever the file contains.
func TestContentsDoNotMatter(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", `{"pid":1,"command":"init"}`, strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(filepath.Join(dir, "data.lock"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Acquire(dir, "data")
		if err != nil {
			t.Errorf("with %.10q: %v", text, err)
		}
		_ = l.Release()
	}
}

func TestHolderWithoutAName(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l, err := Acquire(dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if err := l.f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if _, err := Acquire(dir, "data"); !errors.As(err, &held) || held.PID != 0 || !strings.Contains(err.Error(), "another process") {
		t.Errorf("%v", err)
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l, err := Acquire(dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Release()
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(dir, "data"); fault.CodeOf(err) != fault.FileUnsafe {
		t.Errorf("in a folder that all can write to: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(link, "data"); fault.CodeOf(err) != fault.FileUnsafe {
		t.Errorf("through a link: %v", err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for _, name := range []string{"", "..", ".hidden", "a/b", "a\x00", strings.Repeat("n", 65)} {
		if _, err := Acquire(dir, name); fault.CodeOf(err) != fault.Usage {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// A child has its parent's open files until it executes a program. A lock that is
// released in that moment is free all the same.
func TestReleasedWhileAChildHasTheFile(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "locks")
	l, err := Acquire(dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	child, err := unix.FcntlInt(l.f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(child)
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := Acquire(dir, "data")
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	if err := again.Release(); err != nil {
		t.Fatal(err)
	}
}
