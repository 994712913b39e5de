// SPDX-License-Identifier: Apache-2.0

package caam_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/fault"
)

// installed is a fake caam-keygen with its location.
type installed struct {
	*caam.Program
	dir, location string
}

func install(t testing.TB, f fake) installed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: fencing caam-keygen in takes root; the VM tests do it")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if f.Location == "" {
		f.Location = filepath.Join(dir, "location")
		if err := os.Mkdir(f.Location, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "caam-keygen")
	if err := errors.Join(os.Symlink(self, program), os.WriteFile(filepath.Join(dir, "fake.json"), data, 0o600)); err != nil {
		t.Fatal(err)
	}
	p, err := caam.OpenProgram(program, f.Location)
	if err != nil {
		t.Fatal(err)
	}
	return installed{p, dir, f.Location}
}

func (p installed) seen(t *testing.T) seen {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, "seen.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s seen
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestProgramRunsWithinAFence(t *testing.T) {
	t.Setenv("SECRET_OF_THE_CALLER", "x")
	p := install(t, fake{Chip: caamtest.RandomChip().Save()})
	key, blob, err := p.Create(context.Background(), caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	s := p.seen(t)
	if s.Over != "ramfs" {
		t.Errorf("over the location lies %q, want memory", s.Over)
	}
	if s.Umask != 0o077 {
		t.Errorf("umask %04o", s.Umask)
	}
	if want := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}; !slices.Equal(s.Env, want) {
		t.Errorf("environment %q", s.Env)
	}
	if slices.Contains(s.Args, "-t") {
		t.Errorf("a key in the arguments: %q", s.Args)
	}
	if _, err := p.Import(context.Background(), blob); err != nil {
		t.Error(err)
	}
	if s := p.seen(t); s.Over != "ramfs" || len(s.Args) != 4 || s.Args[1] != "import" {
		t.Errorf("import ran as %+v", s)
	}
}

// A root that is not a mount point cannot be fenced off, and the error says what helps.
func TestFenceInAChroot(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "keys"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := caam.FencedInChroot(root, "/keys")
	if errors.Is(err, unix.EPERM) {
		t.Skipf("NOT TESTED: %v", err)
	}
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "mount --bind") {
		t.Errorf("got %v", err)
	}
}

func TestNothingOfAFencedRunStays(t *testing.T) {
	t.Parallel()
	p := install(t, fake{Chip: caamtest.RandomChip().Save()})
	theirs := filepath.Join(p.location, "imxcrypt.bb")
	if err := os.WriteFile(theirs, []byte("somebody's only blob"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		key, blob, err := p.Create(context.Background(), caam.ECB, 16)
		if err != nil {
			t.Fatal(err)
		}
		key.Wipe()
		if key, err = p.Import(context.Background(), blob); err != nil {
			t.Fatal(err)
		}
		key.Wipe()
	}
	names, err := os.ReadDir(p.location)
	if err != nil || len(names) != 1 {
		t.Errorf("in the location: %v, %v", names, err)
	}
	if data, err := os.ReadFile(theirs); err != nil || string(data) != "somebody's only blob" {
		t.Errorf("what was there before is now %q, %v", data, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), p.location) {
		t.Errorf("mounted in the open: %v", err)
	}
}

// The thread of each run ends with it: no other code of this process ever runs in its
// namespace.
func TestNamespacesDieWithTheirThread(t *testing.T) {
	t.Parallel()
	p := install(t, fake{Chip: caamtest.RandomChip().Save()})
	for range 4 {
		key, _, err := p.Create(context.Background(), caam.CCM, 16)
		if err != nil {
			t.Fatal(err)
		}
		key.Wipe()
	}
	self, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	// Threads end a little later than their goroutines, and parallel tests have some of
	// their own.
	var strange []string
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		strange = nil
		tasks, err := filepath.Glob("/proc/self/task/*/ns/mnt")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil && ns != self {
				strange = append(strange, task)
			}
		}
		if len(strange) == 0 {
			return
		}
	}
	t.Errorf("threads still in a namespace of their own: %v", strange)
}

func TestProgramThatExitsWithZeroIsNotBelieved(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		behave string
		kind   caam.Kind
		code   fault.Code
		says   string
	}{
		{"no device", caam.NoDevice, fault.CAAMMissing, "module"},
		{"kernel's words", caam.Failed, fault.CAAMFailed, "expected values are between"},
		{"no blob", caam.Failed, fault.CAAMFailed, "imxcrypt.bb"},
		{"cut blob", caam.Failed, fault.CAAMFailed, "cut short"},
		{"cut key", caam.Failed, fault.CAAMFailed, "cut short"},
		{"grown key", caam.Failed, fault.CAAMFailed, "5064 bytes"},
		{"empty key", caam.Failed, fault.CAAMFailed, "0 bytes"},
		{"link for a key", caam.Failed, fault.CAAMFailed, "symbolic links"},
		{"directory for a key", caam.Failed, fault.CAAMFailed, "directory"},
		{"pipe for a key", caam.Failed, fault.CAAMFailed, "mode p"},
		{"another size", caam.Mismatch, fault.KeyLengthMismatch, "got ccm around 16"},
		{"flood", caam.Failed, fault.CAAMFailed, "left no"},
	} {
		t.Run(c.behave, func(t *testing.T) {
			t.Parallel()
			p := install(t, fake{Chip: caamtest.RandomChip().Save(), Behave: c.behave})
			key, blob, err := p.Create(context.Background(), caam.CCM, 32)
			if key != nil || blob != nil {
				t.Error("got a key all the same")
			}
			wantKind(t, err, c.kind)
			if fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, code %s; want it to say %q", err, fault.CodeOf(err), c.says)
			}
		})
	}
}

func TestProgramsSilenceIsARejection(t *testing.T) {
	t.Parallel()
	key, blob, err := caamtest.RandomChip().Create(context.Background(), caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	key.Wipe()
	_, err = install(t, fake{Chip: caamtest.RandomChip().Save()}).Import(context.Background(), blob)
	if e := wantKind(t, err, caam.Rejected); e.Text != "" {
		t.Errorf("memory printed by mistake is taken for words: %q", e.Text)
	}
}

func TestHangingProgramIsEnded(t *testing.T) {
	t.Parallel()
	p := install(t, fake{Behave: "hang"})
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, _, err := p.Create(ctx, caam.CCM, 32)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if elapsed := time.Since(start); elapsed > 2*time.Minute {
		t.Errorf("took %v", elapsed)
	}
}

// On a read-only root the location cannot be made, and need not be, if there is an empty
// directory above it.
func TestMissingLocation(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		with []string
		kind caam.Kind // empty if it works
	}{
		{"there", []string{"data/caam/keys/"}, ""},
		{"empty directory above", []string{"data/"}, ""},
		{"directory above in use", []string{"data/somebodys"}, caam.Failed},
		{"a file", []string{"data/caam/keys"}, caam.Failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for _, name := range c.with {
				path := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if strings.HasSuffix(name, "/") {
					if err := os.MkdirAll(path, 0o755); err != nil {
						t.Fatal(err)
					}
				} else if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p := install(t, fake{Chip: caamtest.RandomChip().Save(), Location: filepath.Join(root, "data/caam/keys")})
			key, _, err := p.Create(context.Background(), caam.CCM, 32)
			if c.kind != "" {
				wantKind(t, err, c.kind)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			key.Wipe()
		})
	}
}

func TestProgramThatCannotBeRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "caam-keygen")
	_, err := caam.OpenProgram(file, "")
	wantKind(t, err, caam.NoProgram)
	if !errors.Is(err, unix.ENOENT) || fault.CodeOf(err) != fault.ProgramMissing {
		t.Errorf("%v, code %s", err, fault.CodeOf(err))
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = caam.OpenProgram(file, "")
	wantKind(t, err, caam.NoProgram)
	if !errors.Is(err, unix.EACCES) {
		t.Errorf("%v", err)
	}
	_, err = caam.OpenProgram("caam-keygen", "")
	wantKind(t, err, caam.BadArgument)
	for _, location := range []string{"data/caam", "/", "//", "/data/.."} {
		_, err = caam.OpenProgram(file, location)
		wantKind(t, err, caam.BadArgument)
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: the rest takes root")
	}
	if err := os.WriteFile(file, []byte("\x7fELF of no machine"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := caam.OpenProgram(file, dir)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = p.Create(context.Background(), caam.CCM, 32)
	wantKind(t, err, caam.NoProgram)
	if s := fmt.Sprint(err); !strings.Contains(s, "cannot be started") {
		t.Errorf("%s", s)
	}
}
