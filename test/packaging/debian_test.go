// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"cmp"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// kept returns files that no package may touch: without them a board would lose its
// data.
func kept() map[string]string {
	return map[string]string{
		"/etc/imxcrypt/imxcrypt.yaml":          "volumes: [{name: data, device: /dev/vdb, mount: /data}]\n",
		"/etc/imxcrypt/initramfs.yaml":         "volumes: [{name: root, device: /dev/vdc}]\n",
		"/etc/imxcrypt/imxcrypt.yaml.d/a.yaml": "volumes: []\n",
		"/var/lib/imxcrypt/data.header":        "a detached header",
		"/var/lib/imxcrypt/keys/data.key":      "a key of source dev",
	}
}

// cleanSystem makes the root of a Debian system of the given release with mmdebstrap,
// with systemd, initramfs-tools, and the modules of Debian 12's kernel.
func cleanSystem(t *testing.T, suite string) (root string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a Debian root filesystem can only be built by root")
	}
	// The last line: other output of the command goes to stderr.
	made := filepath.Join(strings.TrimSpace(command(t, top, []string{"test/systemd/build-root", nativeDebian(t)})), "root")
	root = filepath.Join(t.TempDir(), "root")
	if suite == "bookworm" {
		command(t, top, []string{"cp", "-a", made, root})
	} else {
		mirror := cmp.Or(os.Getenv("IMXCRYPT_DEBIAN_MIRROR"), "http://deb.debian.org/debian")
		command(t, top, []string{"mmdebstrap", "--quiet", "--variant=essential", "--include=systemd,initramfs-tools,kmod",
			`--aptopt=Acquire::Languages "none"`, "--aptopt=Acquire::Retries 3", "--dpkgopt=force-unsafe-io",
			"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
			suite, root, mirror})
		command(t, made, []string{"cp", "-a", "--parents", "-t", root, "usr/lib/modules", "boot"})
	}
	// This file excludes documentation.
	if err := os.RemoveAll(filepath.Join(root, "etc/dpkg/dpkg.cfg.d/99mmdebstrap")); err != nil {
		t.Fatal(err)
	}
	return root
}

// inCleanSystem installs a package in a clean system, upgrades, removes and purges it,
// with and without initramfs-tools.
func inCleanSystem(t *testing.T, suite, deb, version string) {
	root := cleanSystem(t, suite)
	in := func(script string) string {
		t.Helper()
		// In its own mount namespace, so that nothing stays mounted, whatever happens.
		cmd := exec.Command("unshare", "--mount", "--fork", "sh", "-euc", `mount -t proc proc "$0/proc"; mount --bind /dev "$0/dev"; exec chroot "$0" sh -euc "$1"`, root, script)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	// image checks which of our files are in the initramfs: a program, its script and
	// its configuration, or nothing.
	image := func(program string) {
		t.Helper()
		var want []string
		if program != "" {
			want = []string{"./etc/imxcrypt/imxcrypt.yaml", "./scripts/local-top/imxcrypt", "./usr/bin/imxcrypt"}
		}
		found := in(`mkdir /tmp/image; cd /tmp/image; unmkinitramfs /boot/initrd.img-* .; find . -type f -path '*imxcrypt*' | LC_ALL=C sort`)
		if got := strings.Fields(found); !slices.Equal(got, want) {
			t.Errorf("the initramfs has %q, expected %q", got, want)
		}
		if program != "" {
			compare := exec.Command("cmp", program, filepath.Join(root, "tmp/image/usr/bin/imxcrypt"))
			if out, err := compare.CombinedOutput(); err != nil {
				t.Errorf("the initramfs has another program: %v: %s", err, out)
			}
		}
		in("rm -r /tmp/image")
	}
	for name, text := range kept() {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := filepath.Dir(deb)
	program := extractProgram(t, deb)
	newProgram := filepath.Join(t.TempDir(), "imxcrypt")
	command(t, files, []string{"sh", "-c", `{ cat "$0"; echo newer; } >"$1"; chmod 755 "$1"`, program, newProgram})
	newer := command(t, top, []string{"packaging/debian/package", nativeGo(t), newProgram, version + "-4-g0123456", t.TempDir()})
	command(t, files, []string{"cp", deb, filepath.Join(root, "older.deb")})
	command(t, files, []string{"cp", newer, filepath.Join(root, "newer.deb")})
	in("release=$(ls /lib/modules); touch /boot/vmlinuz-$release; update-initramfs -c -k $release")
	image("")
	before := tree(t, root)

	t.Log("installed")
	said := in("dpkg -i /older.deb")
	if !strings.Contains(said, "update-initramfs: Generating") {
		t.Errorf("the initramfs is not updated:\n%s", said)
	}
	image(program)
	if got := in("imxcrypt version"); !strings.HasPrefix(got, "imxcrypt "+version+" (") {
		t.Errorf("the program says it is %s", got)
	}
	after := tree(t, root)
	for name := range after {
		if _, was := before[name]; !was && !strings.HasPrefix(name, "/usr/") {
			t.Errorf("%s is installed: nothing is enabled or configured unasked", name)
		}
	}
	for name, was := range before {
		if after[name] != was {
			t.Errorf("the installation changes %s", name)
		}
	}
	for _, name := range installed() {
		if strings.HasPrefix(name, "/usr/share/man/") {
			name += ".gz"
		}
		switch filepath.Base(name) {
		case "LICENSE", "NOTICE":
			name = filepath.Dir(name) + "/copyright"
		case "CHANGELOG.md":
			name = filepath.Dir(name) + "/changelog.gz"
		}
		if _, there := after[name]; !there {
			t.Errorf("%s is missing", name)
		}
	}
	states := in("systemctl list-unit-files --no-legend 'imxcrypt*'")
	if !strings.Contains(states, "imxcrypt-provision@.service") {
		t.Errorf("units:\n%s", states)
	}
	for line := range strings.Lines(states) {
		// unit, state, and the state that a preset would give it
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], "enabled") {
			t.Errorf("enabled unasked: %s", line)
		}
	}
	units := in("mkdir /tmp/units; /usr/lib/systemd/system-generators/imxcrypt-generator /tmp/units /tmp/units /tmp/units; cat /tmp/units/imxcrypt@data.service; rm -r /tmp/units")
	if !strings.Contains(units, "ExecStart=/usr/bin/imxcrypt ") {
		t.Errorf("the generator makes\n%s", units)
	}

	t.Log("upgraded, and back")
	in("dpkg -i /newer.deb")
	image(newProgram)
	if got, want := strings.TrimSpace(in("dpkg-query -W -f '${Version}' imxcrypt")), version+"+4+g0123456-1"; got != want {
		t.Errorf("the version is %s, expected %s", got, want)
	}
	if said := in("dpkg --no-triggers -i /older.deb 2>&1"); !strings.Contains(said, "downgrading") {
		t.Errorf("%s does not come before its successor:\n%s", version, said)
	}

	t.Log("removed")
	in("dpkg --remove imxcrypt")
	image("")
	t.Log("purged")
	in("dpkg --purge imxcrypt")
	image("")
	// An empty folder that systemd does not need: bookworm's systemd has it under /lib,
	// and dpkg does not know that the two are one.
	delete(before, "/usr/lib/systemd/system-sleep")
	after = tree(t, root)
	delete(after, "/usr/lib/systemd/system-sleep")
	if !maps.Equal(after, before) {
		for name := range after {
			if after[name] != before[name] {
				t.Errorf("purge leaves, or changes, %s", name)
			}
		}
		for name := range before {
			if _, there := after[name]; !there {
				t.Errorf("purge takes %s away", name)
			}
		}
	}
	for name := range kept() {
		if _, there := before[name]; !there {
			t.Errorf("%s was not compared", name)
		}
	}

	t.Log("installed where there is no initramfs-tools")
	in("dpkg --purge --force-depends initramfs-tools initramfs-tools-core >/dev/null 2>&1")
	if said := in("dpkg -i /older.deb"); strings.Contains(said, "initramfs") {
		t.Errorf("without initramfs-tools:\n%s", said)
	}
}

// extractProgram extracts the program from a package.
func extractProgram(t *testing.T, deb string) string {
	t.Helper()
	dir := t.TempDir()
	command(t, dir, []string{"dpkg-deb", "--extract", deb, dir})
	return filepath.Join(dir, "usr/bin/imxcrypt")
}

// tree returns the contents of a system by path: mode and text, or the target of a
// link. It skips files in which dpkg and initramfs-tools keep their own state.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	own := []string{"/boot", "/dev", "/proc", "/run", "/sys", "/tmp", "/var/cache", "/var/lib/dpkg", "/var/lib/initramfs-tools", "/var/log", "/older.deb", "/newer.deb"}
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		if slices.Contains(own, name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + link
		case info.Mode().IsRegular() && info.Size() < 1<<20:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(b)
		}
		all[name] = text
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}
