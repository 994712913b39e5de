// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// installTree runs make install, with a stand-in for the built program and a Go that
// fails, and returns the installed files and links with their text.
func installTree(t *testing.T, variables ...string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	program, dest := filepath.Join(dir, "program"), filepath.Join(dir, "dest")
	if err := writeProgram(program, "the program"); err != nil {
		t.Fatal(err)
	}
	if err := writeProgram(filepath.Join(dir, "go"), "#!/bin/sh\necho 'go was run' >&2\nexit 1\n"); err != nil {
		t.Fatal(err)
	}
	argv := []string{"make", "-s", "install", "DESTDIR=" + dest, "BINARY=" + program}
	said := command(t, top, append(argv, variables...), "PATH="+dir+":"+os.Getenv("PATH"), "GO="+dir+"/go", "MAKEFLAGS=", "MAKELEVEL=")
	if said != "" {
		t.Errorf("make install says %q", said)
	}
	return files(t, dest)
}

// files returns the files below a folder with their text, or "-> " and the target of a
// link.
func files(t *testing.T, dest string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, dest)
		if link, err := os.Readlink(path); err == nil {
			all[name] = "-> " + link
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o644)
		if strings.HasSuffix(name, "/bin/imxcrypt") || strings.Contains(name, "initramfs-tools/") || strings.Contains(name, "dracut/") || strings.Contains(name, "/system-sleep/") || strings.Contains(name, "/init.d/") {
			want = 0o755
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, expected %o", name, got, want)
		}
		all[name] = string(text)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// installed returns the files that are promised at least, below the prefix /usr.
func installed() []string {
	return []string{
		"/usr/bin/imxcrypt",
		"/usr/lib/dracut/modules.d/90imxcrypt/imxcrypt.sh",
		"/usr/lib/dracut/modules.d/90imxcrypt/module-setup.sh",
		"/usr/lib/systemd/system-generators/imxcrypt-generator",
		"/usr/lib/systemd/system/imxcrypt-encrypt@.service",
		"/usr/lib/systemd/system/imxcrypt-generator-failed.service",
		"/usr/lib/systemd/system/imxcrypt-metrics.service",
		"/usr/lib/systemd/system/imxcrypt-metrics.timer",
		"/usr/lib/systemd/system/imxcrypt-provision@.service",
		"/usr/lib/systemd/system/imxcrypt-rotate@.service",
		"/usr/lib/udev/rules.d/09-imxcrypt.rules",
		"/usr/share/bash-completion/completions/imxcrypt",
		"/usr/share/doc/imxcrypt/CHANGELOG.md",
		"/usr/share/doc/imxcrypt/LICENSE",
		"/usr/share/doc/imxcrypt/NOTICE",
		"/usr/share/doc/imxcrypt/README.md",
		"/usr/share/doc/imxcrypt/THIRD_PARTY_LICENSES",
		"/usr/share/doc/imxcrypt/docs/boot.md",
		"/usr/share/doc/imxcrypt/docs/status.schema.json",
		"/usr/share/doc/imxcrypt/docs/troubleshooting.md",
		"/usr/share/doc/imxcrypt/examples/minimal.yaml",
		"/usr/share/doc/imxcrypt/packaging/initramfs-plain/init",
		"/usr/share/doc/imxcrypt/systemd-suspend.service.d/imxcrypt.conf",
		"/usr/share/fish/vendor_completions.d/imxcrypt.fish",
		"/usr/share/initramfs-tools/hooks/imxcrypt",
		"/usr/share/initramfs-tools/scripts/local-top/imxcrypt",
		"/usr/share/man/man1/imxcrypt-unlock.1",
		"/usr/share/man/man1/imxcrypt.1",
		"/usr/share/man/man5/imxcrypt.yaml.5",
		"/usr/share/zsh/vendor-completions/_imxcrypt",
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	tree := installTree(t)
	for _, name := range installed() {
		if tree[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
	if got := tree["/usr/lib/systemd/system-generators/imxcrypt-generator"]; got != "-> ../../../bin/imxcrypt" {
		t.Errorf("the generator leads %q", got)
	}
	for name := range tree {
		if strings.HasPrefix(name, "/etc/") || strings.HasPrefix(name, "/var/") || strings.Contains(name, ".wants/") {
			t.Errorf("%s: nothing is enabled or configured unasked", name)
		}
	}
	pages, err := filepath.Glob(filepath.Join(top, "docs/man/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		section := page[len(page)-1:]
		if tree["/usr/share/man/man"+section+"/"+filepath.Base(page)] == "" {
			t.Errorf("%s is not installed", page)
		}
	}
	if page := tree["/usr/share/man/man5/imxcrypt.yaml.5"]; !strings.Contains(page, ".TH IMXCRYPT.YAML 5") {
		t.Errorf("imxcrypt.yaml(5) is no manual page:\n%s", page)
	}
}

// With another prefix everything that names the program names it there, and files that
// other programs read are in the places where those programs look.
func TestInstallElsewhere(t *testing.T) {
	t.Parallel()
	tree := installTree(t, "PREFIX=/usr/local", "UDEVDIR=/lib/udev")
	for _, name := range installed() {
		want := name
		switch {
		case strings.HasPrefix(name, "/usr/lib/udev"):
			want = strings.TrimPrefix(name, "/usr")
		case !strings.Contains(name, "initramfs-tools/") && !strings.Contains(name, "dracut/"):
			want = "/usr/local" + strings.TrimPrefix(name, "/usr")
		}
		if tree[want] == "" {
			t.Errorf("%s is missing", want)
		}
	}
	units := 0
	for name, text := range tree {
		inUnit := strings.Contains(name, "/systemd/system/") || strings.Contains(name, ".service.d/")
		if inUnit || strings.Contains(name, "initramfs-tools/") {
			if strings.Contains(text, " /usr/bin/imxcrypt") || strings.Contains(text, "=/usr/bin/imxcrypt") {
				t.Errorf("%s names the program where it is not:\n%s", name, text)
			}
		}
		if inUnit && strings.Contains(text, "ExecStart=/usr/local/bin/imxcrypt ") {
			units++
		}
	}
	if units < 3 {
		t.Errorf("%d units name the program", units)
	}
	if hook := tree["/usr/share/initramfs-tools/hooks/imxcrypt"]; !slices.Contains(strings.Split(hook, "\n"), "program=/usr/local/bin/imxcrypt") {
		t.Errorf("the hook takes the program from elsewhere:\n%s", hook)
	}
}
