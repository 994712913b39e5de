// SPDX-License-Identifier: Apache-2.0

package program

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"imxcrypt/internal/fault"
)

// script makes a program and a Runner that finds it.
func script(t *testing.T, body string) Runner {
	t.Helper()
	dir := t.TempDir()
	// No fork of a parallel test may inherit the file while it is open for
	// writing: running it would be ETXTBSY.
	syscall.ForkLock.RLock()
	err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\n"+body), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return Runner{Dirs: []string{dir, "/usr/bin", "/bin"}, Grace: 200 * time.Millisecond}
}

func TestRunCapturesOutput(t *testing.T) {
	t.Parallel()
	res, err := script(t, `echo "out $1"; echo "err $2" >&2`).Run(t.Context(), "tool", "a b", "c")
	if err != nil || string(res.Stdout) != "out a b\n" || string(res.Stderr) != "err c\n" {
		t.Errorf("%q, %q, %v", res.Stdout, res.Stderr, err)
	}
}

func TestSurroundings(t *testing.T) {
	t.Setenv("IMXCRYPT_TEST_SECRET", "leaked")
	t.Setenv("LANG", "de_DE.UTF-8")
	r := script(t, `env | sort | grep -v -e ^_= -e ^SHLVL= -e ^PWD= -e ^OLDPWD=; pwd; read x || echo no input`)
	res, err := r.Run(t.Context(), "tool")
	want := "LC_ALL=C\nPATH=" + strings.Join(r.Dirs, ":") + "\n/\nno input\n"
	if err != nil || string(res.Stdout) != want {
		t.Errorf("%q, %v, want %q", res.Stdout, err, want)
	}
}

func TestFailureHasTheLastLines(t *testing.T) {
	t.Parallel()
	_, err := script(t, `echo fine; echo one >&2; echo two >&2; echo three >&2; echo four >&2; exit 3`).Run(t.Context(), "tool")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || fault.CodeOf(err) != fault.ProgramFailed {
		t.Fatalf("%v", err)
	}
	if want := "tool failed with exit status 3: fine / one / two / three / four"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	_, err = script(t, `echo 'no such option' >&2; printf 'Usage: tool\n/* sizes */\t\t[-s size]\n\t\t[-n]\n<num> is a number\n' >&2; exit 1`).Run(t.Context(), "tool")
	if !strings.HasSuffix(err.Error(), "exit status 1: no such option") {
		t.Errorf("with a usage behind: %v", err)
	}
	_, err = script(t, `echo said on stdout; exit 1`).Run(t.Context(), "tool")
	if !strings.HasSuffix(err.Error(), "said on stdout") {
		t.Errorf("%v", err)
	}
	_, err = script(t, `kill -9 $$`).Run(t.Context(), "tool")
	if !errors.As(err, &exit) || exit.Signal != syscall.SIGKILL || !strings.Contains(err.Error(), "signal 9") {
		t.Errorf("%v", err)
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := Runner{Dirs: []string{dir}}
	for _, name := range []string{"none", "data", "folder", "./data", dir + "/none", "../x"} {
		_, err := r.Run(t.Context(), name)
		var missing *MissingError
		if !errors.As(err, &missing) || fault.CodeOf(err) != fault.ProgramMissing || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The user's own PATH is not used.
	if _, err := (Runner{}).Find("none-of-this-name"); err == nil || !strings.Contains(err.Error(), "/usr/sbin, /usr/bin, /sbin, /bin") {
		t.Errorf("%v", err)
	}
}

func TestAbsolutePath(t *testing.T) {
	t.Parallel()
	r := script(t, "exit 0")
	if got, err := (Runner{}).Find(filepath.Join(r.Dirs[0], "tool")); err != nil || got != filepath.Join(r.Dirs[0], "tool") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"ends on SIGTERM":           `trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done`,
		"ignores SIGTERM":           `trap '' TERM; while :; do sleep 0.05; done`,
		"its child ignores SIGTERM": `(trap '' TERM; while :; do sleep 0.05; done) & wait`,
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("enough of it")
		time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
		start := time.Now()
		_, err := script(t, body).Run(ctx, "tool")
		if !errors.Is(err, why) || fault.CodeOf(err) != fault.Interrupted {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("%s: took %v", name, d)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := script(t, "exit 0").Run(ctx, "tool"); !errors.Is(err, context.Canceled) || fault.CodeOf(err) != fault.Interrupted {
		t.Errorf("cancelled before: %v", err)
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	res, err := script(t, `head -c 1000000 /dev/zero | tr '\0' x; echo the end`).Run(t.Context(), "tool")
	if err != nil || len(res.Stdout) != maxOutput || !bytes.HasSuffix(res.Stdout, []byte("x"+"the end\n")) {
		t.Errorf("%d bytes, %v", len(res.Stdout), err)
	}
}

func TestLastLines(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                            "",
		"\n \n":                       "",
		"a\nb\nc\nd\n":                "c / d",
		"12%\b\b\b34%\r\ndone\x1b[0m": "12%34% / done[0m",
		"tab\there\n\xff\xfebinary":   "tab here / binary",
	} {
		if got := LastLines([]byte(in), 2); got != want {
			t.Errorf("LastLines(%q) = %q, want %q", in, got, want)
		}
	}
}
