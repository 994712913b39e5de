// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sources returns a folder with the repository's files and a program built in it.
func sources(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"packaging", "docs", "configs", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE", "THIRD_PARTY_LICENSES"} {
		path, err := filepath.Abs(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "imxcrypt"), []byte("the program"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// same checks that two trees have the same files with the same text.
func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if text, ok := got[name]; !ok {
			t.Errorf("%s does not install %s", what, name)
		} else if text != want[name] {
			t.Errorf("%s installs another %s:\n%s", what, name, text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			t.Errorf("%s installs %s", what, name)
		}
	}
}

// Buildroot's package installs the same files as `make install`, except the parts that
// a board does not need, and enables nothing. make runs the package's own commands, as
// Buildroot's infrastructure would.
func TestBuildrootInstallsWhatInstallDoes(t *testing.T) {
	t.Parallel()
	const pkg = "/package/imxcrypt/"
	full := installTree(t)
	for _, c := range []struct {
		init, hooks string
		below       []string // the part of the full tree that is installed
		own         map[string]string
	}{
		{"systemd", "IMXCRYPT_INSTALL_INIT_SYSTEMD", []string{"/usr/bin/", "/usr/lib/udev/", "/usr/lib/systemd/"}, map[string]string{}},
		{"no systemd", "IMXCRYPT_INSTALL_INIT_SYSV", []string{"/usr/bin/", "/usr/lib/udev/"},
			map[string]string{"/etc/init.d/S12imxcrypt": read(t, buildroot+pkg+"S12imxcrypt")}},
	} {
		t.Run(c.init, func(t *testing.T) {
			t.Parallel()
			dir, target := sources(t), t.TempDir()
			mk := filepath.Join(dir, "test.mk")
			if err := os.WriteFile(mk, []byte("include packaging/buildroot"+pkg+"imxcrypt.mk\n"+
				dir+"/.stamp_target_installed:\n\t$(IMXCRYPT_INSTALL_TARGET_CMDS)\n\t$("+c.hooks+")\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			command(t, dir, []string{"make", "-s", "-f", mk, "INSTALL=install", "TARGET_DIR=" + target,
				"IMXCRYPT_PKGDIR=packaging/buildroot" + pkg, dir + "/.stamp_target_installed"},
				"MAKEFLAGS=", "MAKELEVEL=")
			want := maps.Clone(c.own)
			for name, text := range full {
				if slices.ContainsFunc(c.below, func(folder string) bool { return strings.HasPrefix(name, folder) }) {
					want[name] = text
				}
			}
			got := files(t, target)
			same(t, "Buildroot's package", got, want)
			if info, err := os.Stat(filepath.Join(target, "var/lib/imxcrypt")); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("/var/lib/imxcrypt: %v, %v", info, err)
			}
			// Buildroot enables each unit with an [Install] section that no preset
			// disables. A template has no instance to enable.
			for name, text := range got {
				unit := filepath.Base(name)
				if strings.HasPrefix(name, "/usr/lib/systemd/system/") && !strings.Contains(unit, "@.") && strings.Contains(text, "\n[Install]\n") &&
					!strings.Contains(got["/usr/lib/systemd/system-preset/50-imxcrypt.preset"], "\ndisable "+unit+"\n") {
					t.Errorf("Buildroot enables %s", unit)
				}
			}
		})
	}
}

// Both of Yocto's recipes install everything that `make install` does.
func TestYoctoInstallsWhatInstallDoes(t *testing.T) {
	t.Parallel()
	full := installTree(t)
	for _, c := range []struct{ recipe, unitdir string }{{"imxcrypt", "/usr/lib/systemd"}, {"imxcrypt-bin", "/usr/lib/systemd"}, {"imxcrypt-bin", "/lib/systemd"}} {
		recipe := c.recipe
		t.Run(recipe+", systemd in "+c.unitdir, func(t *testing.T) {
			t.Parallel()
			text := read(t, layer+"/recipes-security/imxcrypt/"+recipe+"_"+release(t)+".bb")
			m := regexp.MustCompile(`(?ms)^do_install\(\) \{\n(.*?)^\}$`).FindStringSubmatch(text)
			if m == nil {
				t.Fatal("there is no do_install")
			}
			dir, dest := sources(t), t.TempDir()
			if recipe == "imxcrypt-bin" {
				// The released tarball, in whose folder packaging/release has installed
				// the files.
				command(t, dir, []string{"packaging/install", "imxcrypt"}, "DESTDIR="+dir)
			}
			variables := map[string]string{
				"D": dest, "S": dir, "B": dir, "prefix": "/usr", "bindir": "/usr/bin", "datadir": "/usr/share",
				"docdir": "/usr/share/doc", "nonarch_libdir": "/usr/lib", "systemd_unitdir": c.unitdir,
			}
			script := regexp.MustCompile(`\$\{([A-Za-z_]+)\}`).ReplaceAllStringFunc(m[1], func(s string) string {
				value, ok := variables[s[2:len(s)-1]]
				if !ok {
					t.Errorf("what is %s?", s)
				}
				return value
			})
			command(t, dir, []string{"sh", "-e", "-c", script})
			want := maps.Clone(full)
			if c.unitdir != "/usr/lib/systemd" {
				for name, text := range full {
					if rest, is := strings.CutPrefix(name, "/usr/lib/systemd/system-sleep/"); is {
						delete(want, name)
						want[c.unitdir+"/system-sleep/"+rest] = text
					}
				}
				const generator = "/system-generators/imxcrypt-generator"
				delete(want, "/usr/lib/systemd"+generator)
				if link, err := os.Readlink(dest + c.unitdir + generator); err != nil || link != "/usr/bin/imxcrypt" {
					t.Errorf("the generator: %q, %v", link, err)
				}
			}
			got := files(t, dest)
			maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasPrefix(name, "/lib/systemd/system-generators/") })
			same(t, recipe, got, want)
			interpreters(t, got)
		})
	}
}

// interpreters checks what do_package_qa checks (file-rdeps): a script that names a
// shell other than sh is in a package that depends on that shell, or that is allowed
// not to.
func interpreters(t *testing.T, installed map[string]string) {
	t.Helper()
	recipe := read(t, layer+"/recipes-security/imxcrypt/imxcrypt.inc")
	excused := strings.Contains(recipe, `INSANE_SKIP:${PN}-initramfs-hooks += "file-rdeps"`)
	hooks := 0
	for name, text := range installed {
		line, _, _ := strings.Cut(text, "\n")
		if !strings.HasPrefix(line, "#!") || line == "#!/bin/sh" {
			continue
		}
		if !excused || !strings.HasPrefix(name, "/usr/lib/dracut/") {
			t.Errorf("%s takes %s, and its package does not depend on that", name, line)
		}
		hooks++
	}
	if hooks == 0 {
		t.Error("no script takes another shell: the recipe excuses nothing")
	}
}

// packaging/install refuses unknown parts before it installs anything.
func TestInstallKnowsItsParts(t *testing.T) {
	t.Parallel()
	dir, dest := sources(t), t.TempDir()
	said := command(t, dir, []string{"sh", "-c", `packaging/install imxcrypt program uboot 2>&1; echo "exit $?"`}, "DESTDIR="+dest)
	if !strings.Contains(said, "uboot is not a part") || !strings.HasSuffix(said, "exit 1") {
		t.Errorf("it says %q", said)
	}
	if got := files(t, dest); len(got) > 0 {
		t.Errorf("it has installed %v", got)
	}
}
