// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

// Package systemd boots Debian systems made from packages, with real systemd and udev,
// and distribution initramfs images. They run in virtual machines with the simulated
// CAAM and test the program's units, generator and hooks.
package systemd

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// files are the files that a test adds to a system, by path.
type files map[string]vm.File

// text returns a file with the given contents.
func text(s string) vm.File { return vm.File{Data: []byte(s)} }

// enabled adds the link that systemctl enable would make.
func (f files) enabled(target, unit, template string) {
	f["/etc/systemd/system/"+target+".wants/"+unit] = vm.File{Link: "/lib/systemd/system/" + template}
}

// built returns the folder made by test/systemd/build-root and add-package: a system
// with the program's Debian package installed.
func built(t *testing.T, arch vm.Arch) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a Debian root filesystem can only be built by root")
	}
	return made(t, "./add-package", string(arch), made(t, "./build-root", string(arch)), vm.BuildProgram(t, "./cmd/imxcrypt", string(arch)))
}

// made runs a script and returns what it prints.
func made(t *testing.T, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// newRoot makes a disk with the system, the agent, and the files.
func newRoot(t *testing.T, arch vm.Arch, own files) *vm.Disk {
	t.Helper()
	return rootOf(t, arch, built(t, arch), own)
}

// rootOf is newRoot for a system in a folder made by build-root.
func rootOf(t *testing.T, arch vm.Arch, system string, own files) *vm.Disk {
	t.Helper()
	disk := vm.NewDisk(t, 0)
	image := filepath.Join(system, "root.ext4")
	if out, err := exec.Command("cp", "--sparse=always", image, disk.Path).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	all := agentFiles(t, arch)
	maps.Copy(all, own)
	inject(t, disk.Path, all)
	return disk
}

// agentFiles returns the agent and its service.
func agentFiles(t *testing.T, arch vm.Arch) files {
	t.Helper()
	return files{
		vm.AgentPath: {Host: vm.Agent(t, arch)},
		"/etc/systemd/system/imxcrypt-test.service":                      text(vm.AgentService),
		"/etc/systemd/system/sysinit.target.wants/imxcrypt-test.service": {Link: "../imxcrypt-test.service"},
	}
}

// inject writes files into an ext4 image that is not mounted.
func inject(t *testing.T, image string, all files) {
	t.Helper()
	dir := t.TempDir()
	var script strings.Builder
	made := map[string]bool{"/": true}
	var mkdir func(string)
	mkdir = func(path string) {
		if !made[path] {
			made[path] = true
			mkdir(filepath.Dir(path))
			fmt.Fprintf(&script, "mkdir \"%s\"\n", path)
		}
	}
	for i, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		path := merged(name)
		mkdir(filepath.Dir(path))
		fmt.Fprintf(&script, "rm \"%s\"\n", path)
		if f.Link != "" {
			fmt.Fprintf(&script, "symlink \"%s\" \"%s\"\n", path, f.Link)
			continue
		}
		host, mode := f.Host, f.Mode
		if host == "" {
			host = filepath.Join(dir, fmt.Sprint(i))
			if err := os.WriteFile(host, f.Data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if mode == 0 {
			mode = map[bool]fs.FileMode{true: 0o755, false: 0o644}[f.Host != ""]
		}
		fmt.Fprintf(&script, "write \"%s\" \"%s\"\nset_inode_field \"%s\" mode 0%o\nset_inode_field \"%[3]s\" uid 0\nset_inode_field \"%[3]s\" gid 0\n",
			host, path, path, 0o100000|mode.Perm())
	}
	cmd := exec.Command("debugfs", "-w", "-f", "-", image)
	cmd.Env = append(os.Environ(), "DEBUGFS_PAGER=cat", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdin = strings.NewReader(script.String())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, stderr.Bytes())
	}
	for line := range strings.Lines(stderr.String()) {
		// Files that do not exist cannot be removed; folders that exist need not be
		// made.
		if !strings.HasPrefix(line, "debugfs 1.") && !strings.Contains(line, "File not found by ext2_lookup") &&
			!strings.Contains(line, "Ext2 directory already exists") && !strings.Contains(line, "File exists") {
			t.Fatalf("debugfs: %s\n%s", line, stderr.Bytes())
		}
	}
}

// merged resolves the links /bin, /sbin and /lib into /usr.
func merged(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if slices.Contains([]string{"bin", "sbin", "lib"}, first) {
		return "/usr" + path
	}
	return path
}
