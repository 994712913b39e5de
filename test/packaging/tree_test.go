// SPDX-License-Identifier: Apache-2.0

// Package packaging checks what leaves the repository against what was promised:
// binaries, the installed tree, packages, and the recipes of other build systems.
package packaging

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// top is the path from here to the repository.
const top = "../.."

// copyTree copies the repository's files, without build results and git's own files.
func copyTree(t *testing.T, to string, leave ...string) {
	t.Helper()
	leave = append(leave, ".git", "build")
	if err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		if slices.Contains(leave, name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		target := filepath.Join(to, name)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, text, info.Mode().Perm()&0o700)
	}); err != nil {
		t.Fatal(err)
	}
}

// command runs a program in a folder and returns its output. The last argument adds
// variables to the environment.
func command(t *testing.T, dir string, argv []string, env ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// git runs git in a folder, independent of the user's configuration.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return command(t, dir, append([]string{"git", "-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "init.defaultBranch=main"}, args...),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
}

// writeProgram writes a program that a test runs. A fork in a parallel test must not
// inherit the file while it is open for writing: running it would fail with ETXTBSY.
func writeProgram(path, text string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, []byte(text), 0o755)
}
