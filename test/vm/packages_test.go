// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package vm_test

import (
	"context"
	"fmt"
	"go/build/constraint"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// packageLimit bounds one package's tests in the guest.
const packageLimit = 15 * time.Minute

// TestPackages runs the tests that need root and a real kernel: every package with a
// test file for the tag vm, compiled for each architecture, runs in the guest. For arm
// this is a 32-bit program under the arm64 kernel. The tests here are named
// MACHINE/PROGRAM/PACKAGE/TEST.
func TestPackages(t *testing.T) {
	packages := taggedPackages(t, "../..")
	if len(packages) == 0 {
		t.Fatal("no package has tests for the tag vm")
	}
	forEachArch(t, func(t *testing.T, arch vm.Arch) {
		programs := []string{string(arch)}
		if arch == vm.ARM64 {
			programs = append(programs, "arm")
		}
		for _, goarch := range programs {
			for _, pkg := range packages {
				t.Run(goarch+"/"+pkg, func(t *testing.T) { runPackage(t, arch, goarch, pkg) })
			}
		}
	})
}

// taggedPackages returns the folders, relative to the top, with a test file that is
// built with the tag vm and not without it.
func taggedPackages(t *testing.T, top string) []string {
	var found []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || path == filepath.Join(top, "build")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(top, filepath.Dir(path))
		if err == nil && tagged(string(text)) && !slices.Contains(found, dir) {
			found = append(found, dir)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func tagged(source string) bool {
	for _, line := range strings.Split(source, "\n") {
		if strings.HasPrefix(line, "package ") {
			return false
		}
		if expr, err := constraint.Parse(line); err == nil {
			with := expr.Eval(func(tag string) bool { return tag != "vmhost" })
			without := expr.Eval(func(tag string) bool { return tag != "vmhost" && tag != "vm" })
			return with && !without
		}
	}
	return false
}

func runPackage(t *testing.T, arch vm.Arch, goarch, pkg string) {
	m := vm.Shared(t, arch)
	dir := fmt.Sprintf("/tmp/packages/%s/%s", goarch, pkg)
	binary := dir + "/" + filepath.Base(pkg) + ".test"
	m.PutFile(binary, vm.BuildTest(t, "./"+pkg, goarch))
	putTree(t, m, dir+"/testdata", filepath.Join("../..", pkg, "testdata"))
	// A package that stops halfway must not disturb the next one.
	defer m.Sh("dmsetup remove_all --force; losetup -D; rm -rf " + dir)

	argv := []string{binary, "-test.v", "-test.timeout=" + packageLimit.String()}
	if os.Getenv("IMXCRYPT_SOAK") == "" {
		// A slice of the crash states: they do not depend on the kernel, and the host
		// runs all of them.
		argv = append(argv, "-test.short")
	}
	r, err := m.TryRun(context.Background(), vm.Command{
		Argv: argv,
		Dir:  dir, Timeout: packageLimit + time.Minute,
	})
	if err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	t.Logf("%v in the guest", r.Duration.Round(time.Millisecond))
	results := parseVerbose(r.Stdout)
	failed := false
	for _, test := range results {
		failed = failed || test.state == stateFailed
		t.Run(test.name, func(t *testing.T) {
			switch test.state {
			case stateFailed:
				t.Errorf("in the guest:\n%s", test.output)
			case stateSkipped:
				t.Skipf("in the guest:\n%s", test.output)
			}
		})
	}
	if (r.Code != 0 && !failed) || len(results) == 0 {
		t.Errorf("%d tests reported, none as failed: %v", len(results), r)
	}
	if r.Code == 0 && failed {
		t.Errorf("a failed test, and exit code 0: %v", r)
	}
}

// putTree copies a folder from the host, if it exists.
func putTree(t *testing.T, m *vm.Machine, guest, host string) {
	err := filepath.WalkDir(host, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(host, path)
		if err == nil {
			m.PutFile(guest+"/"+rel, path)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}
