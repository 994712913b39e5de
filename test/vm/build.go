// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleRoot returns the folder of go.mod, which is above the folder in which go test
// starts a test.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
	}
}

// BuildProgram compiles a main package ("./cmd/imxcrypt") of this module for a GOARCH,
// in the same way as a release, and returns the file.
func BuildProgram(t TB, pkg, goarch string) string {
	t.Helper()
	top, err := moduleRoot()
	if err != nil {
		t.Fatalf("build %s: %v", pkg, err)
	}
	out := filepath.Join(top, "build/vm/programs", goarch, filepath.Base(pkg))
	out, err = makeOnce(out, func() (string, error) {
		return out, locked(out, func() error {
			cmd := exec.Command("packaging/build", goarch, out, pkg)
			cmd.Dir = top
			if text, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w:\n%s", cmd, err, text)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// locked calls do while holding the lock of a file in the cache. Processes do not
// compile the same thing twice, and none of them reads an incomplete file.
func locked(file string, do func() error) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	unlock, err := lockFile(file + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}

// BuildTest compiles a package's test binary with the tag vm and returns the file.
func BuildTest(t TB, pkg, goarch string) string {
	t.Helper()
	top, err := moduleRoot()
	if err != nil {
		t.Fatalf("build %s: %v", pkg, err)
	}
	out := filepath.Join(top, "build/vm/tests", goarch, strings.ReplaceAll(strings.TrimPrefix(pkg, "./"), "/", "-")+".test")
	if err := goBuild(context.Background(), top, out, goarch, "test", "-c", "-tags=vm", pkg); err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// goBuild runs go build or go test -c and makes a static binary without debug
// information.
func goBuild(ctx context.Context, top, out, goarch, verb string, args ...string) error {
	return locked(out, func() error {
		words := append([]string{verb, "-trimpath", "-ldflags=-s -w", "-o", out}, args...)
		cmd := exec.CommandContext(ctx, "go", words...)
		cmd.Dir = top
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goarch, "GOARM=7")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s for %s: %w:\n%s", strings.Join(words, " "), goarch, err, text)
		}
		return nil
	})
}

// writeAtomically writes a file of the cache and never leaves an incomplete one.
func writeAtomically(file string, data []byte, perm os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// lockFile waits for a file lock that holds between processes.
func lockFile(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// tail returns the last n lines of a text.
func tail(text string, n int) string {
	lines := bytes.Split(bytes.TrimRight([]byte(text), "\n"), []byte("\n"))
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return string(bytes.Join(lines, []byte("\n")))
}
