// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imxcrypt/internal/fault"
)

// system makes the folders of a system, and files in them by their paths below etc and
// usr; "-> X" makes a link.
func system(t *testing.T, files map[string]string) (root string, l layers) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "system")
	for _, dir := range []string{"etc", "usr"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		main := filepath.Join(root, dir, "imxcrypt.yaml")
		l.mains, l.dirs = append(l.mains, main), append(l.dirs, main+".d")
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if to, link := strings.CutPrefix(text, "-> "); link {
			if err := os.Symlink(to, path); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root, l
}

func volumeNamed(name string) string {
	return "volumes: [{name: " + name + ", device: PARTLABEL=" + name + "}]\n"
}

// Which files make up a configuration, and in which order.
func TestLayers(t *testing.T) {
	t.Parallel()
	const some = "volumes: []\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  string // or the error
	}{
		"the file alone":               {map[string]string{"etc/imxcrypt.yaml": some}, "etc/imxcrypt.yaml"},
		"the vendor's alone":           {map[string]string{"usr/imxcrypt.yaml": some}, "usr/imxcrypt.yaml"},
		"the owner's for the vendor's": {map[string]string{"etc/imxcrypt.yaml": some, "usr/imxcrypt.yaml": "no yaml: ["}, "etc/imxcrypt.yaml"},
		"drop-ins by name, whatever their folder": {map[string]string{
			"etc/imxcrypt.yaml": some, "usr/imxcrypt.yaml.d/10-a.yaml": some, "etc/imxcrypt.yaml.d/20-b.yaml": some,
			"usr/imxcrypt.yaml.d/30-c.yaml": some, "etc/imxcrypt.yaml.d/9-z.yaml": some,
		}, "etc/imxcrypt.yaml usr/imxcrypt.yaml.d/10-a.yaml etc/imxcrypt.yaml.d/20-b.yaml usr/imxcrypt.yaml.d/30-c.yaml etc/imxcrypt.yaml.d/9-z.yaml"},
		"drop-ins without a file": {map[string]string{"usr/imxcrypt.yaml.d/a.yaml": some, "etc/imxcrypt.yaml.d/b.yaml": some},
			"usr/imxcrypt.yaml.d/a.yaml etc/imxcrypt.yaml.d/b.yaml"},
		"one masks that of the same name": {map[string]string{"etc/imxcrypt.yaml": some, "usr/imxcrypt.yaml.d/a.yaml": "no yaml: [", "etc/imxcrypt.yaml.d/a.yaml": some},
			"etc/imxcrypt.yaml etc/imxcrypt.yaml.d/a.yaml"},
		"a link to /dev/null masks": {map[string]string{"etc/imxcrypt.yaml": some, "usr/imxcrypt.yaml.d/a.yaml": "no yaml: [", "etc/imxcrypt.yaml.d/a.yaml": "-> /dev/null"},
			"etc/imxcrypt.yaml"},
		"a link to /dev/null masks the file": {map[string]string{"etc/imxcrypt.yaml": "-> /dev/null", "usr/imxcrypt.yaml": "no yaml: [", "usr/imxcrypt.yaml.d/a.yaml": some},
			"usr/imxcrypt.yaml.d/a.yaml"},
		"everything masked":  {map[string]string{"etc/imxcrypt.yaml": "-> /dev/null", "usr/imxcrypt.yaml": some}, "config-missing: ROOT/etc/imxcrypt.yaml: there is no such file"},
		"nothing":            {nil, "config-missing: ROOT/etc/imxcrypt.yaml: there is no such file"},
		"links are followed": {map[string]string{"etc/imxcrypt.yaml.d/a.yaml": "-> ../../usr/layer", "usr/layer": some}, "etc/imxcrypt.yaml.d/a.yaml"},
		"a link that leads nowhere is not a missing drop-in": {map[string]string{"etc/imxcrypt.yaml": some, "etc/imxcrypt.yaml.d/a.yaml": "-> nowhere"},
			"file-unsafe: ROOT/etc/imxcrypt.yaml.d/a.yaml: is a link that leads nowhere; remove it, or make what it leads to"},
		"a link that leads nowhere does not uncover the vendor's": {map[string]string{"etc/imxcrypt.yaml": "-> nowhere", "usr/imxcrypt.yaml": some},
			"config-missing: ROOT/etc/imxcrypt.yaml: there is no such file"},
		"a folder that leads nowhere": {map[string]string{"etc/imxcrypt.yaml": some, "etc/imxcrypt.yaml.d": "-> nowhere"},
			"file-unsafe: ROOT/etc/imxcrypt.yaml.d: the folder of the drop-ins cannot be read: no such file or directory"},
		"no folder": {map[string]string{"etc/imxcrypt.yaml": some, "etc/imxcrypt.yaml.d": some},
			"file-unsafe: ROOT/etc/imxcrypt.yaml.d: the folder of the drop-ins cannot be read: not a directory"},
		"what editors and packagers leave": {map[string]string{
			"etc/imxcrypt.yaml": some, "etc/imxcrypt.yaml.d/a.yaml~": "x", "etc/imxcrypt.yaml.d/.a.yaml": "x", "etc/imxcrypt.yaml.d/a.yaml.dpkg-new": "x", "etc/imxcrypt.yaml.d/README": "x",
		}, "etc/imxcrypt.yaml"},
		"a name that ends otherwise by mistake": {map[string]string{"etc/imxcrypt.yaml": some, "etc/imxcrypt.yaml.d/a.yml": some},
			"config-invalid: ROOT/etc/imxcrypt.yaml.d/a.yml: is not read: the name of a drop-in ends in .yaml; rename it to a.yaml, or move it out of the folder"},
		"a folder for a drop-in": {map[string]string{"etc/imxcrypt.yaml": some, "etc/imxcrypt.yaml.d/a.yaml/x": some},
			"file-unsafe: ROOT/etc/imxcrypt.yaml.d/a.yaml: is not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, l := system(t, c.files)
			sources, err := l.read(true)
			var files []string
			for _, s := range sources {
				files = append(files, strings.TrimPrefix(s.file, root+"/"))
			}
			got := strings.Join(files, " ")
			if err != nil {
				got = string(fault.CodeOf(err)) + ": " + strings.ReplaceAll(err.Error(), root, "ROOT")
			}
			if got != c.want && (err == nil || !strings.HasPrefix(got, c.want)) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestTooManyDropIns(t *testing.T) {
	t.Parallel()
	files := map[string]string{}
	for i := range maxFiles + 1 {
		files[fmt.Sprintf("etc/imxcrypt.yaml.d/%d.yaml", i)] = "volumes: []\n"
	}
	_, l := system(t, files)
	if _, err := l.read(true); !fault.Is(err, fault.ConfigInvalid) || !strings.Contains(err.Error(), "257 drop-ins are more than 256; put several volumes in one file") {
		t.Errorf("got %v", err)
	}
}

// Drop-ins are trusted like the file: each of them, and the folder, because a process
// that can write to the folder could remove one.
func TestOnlyRootsDropInsAreTrusted(t *testing.T) {
	t.Parallel()
	root, l := system(t, map[string]string{"etc/imxcrypt.yaml": small, "etc/imxcrypt.yaml.d/a.yaml": "state_dir: /x\n", "usr/imxcrypt.yaml.d/b.yaml": "-> /dev/null"})
	_, err := l.read(false)
	if os.Getuid() != 0 {
		if !fault.Is(err, fault.ConfigUntrusted) {
			t.Errorf("files of user %d: %v", os.Getuid(), err)
		}
		t.Skip("NOT TESTED: drop-ins of root's, which only root can make")
	}
	if err != nil {
		t.Fatalf("all root's: %v", err)
	}
	dir := filepath.Join(root, "etc/imxcrypt.yaml.d")
	file, mask, vendor := filepath.Join(dir, "a.yaml"), filepath.Join(root, "usr/imxcrypt.yaml.d/b.yaml"), filepath.Join(root, "usr/imxcrypt.yaml.d")
	refused := func(what, says string) {
		t.Helper()
		if _, err := l.read(false); !fault.Is(err, fault.ConfigUntrusted) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := l.read(true); err != nil {
			t.Errorf("%s, with any owner allowed: %v", what, err)
		}
	}
	chmod(t, file, 0o664)
	refused("a drop-in that the group can write", file+" can be written by users other than root")
	chmod(t, file, 0o644)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	chmod(t, dir, 0o777)
	refused("an empty folder that all can write", dir+" can be written by users other than root")
	chmod(t, dir, 0o755)
	if err := os.Lchown(mask, 12345, 0); err != nil {
		t.Fatal(err)
	}
	refused("another user's mask", "user 12345")
	if err := os.Lchown(mask, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(vendor, vendor+"-moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(vendor+"-moved", vendor); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(vendor, 12345, 0); err != nil {
		t.Fatal(err)
	}
	refused("another user's link to a folder", "user 12345")
}

// The layers of a path.
func TestLayersOfAPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]layers{
		"/etc/imxcrypt/imxcrypt.yaml": {
			[]string{"/etc/imxcrypt/imxcrypt.yaml", "/usr/lib/imxcrypt/imxcrypt.yaml"},
			[]string{"/etc/imxcrypt/imxcrypt.yaml.d", "/usr/lib/imxcrypt/imxcrypt.yaml.d"},
		},
		"/etc//imxcrypt/./initramfs.yaml": {
			[]string{"/etc//imxcrypt/./initramfs.yaml", "/usr/lib/imxcrypt/initramfs.yaml"},
			[]string{"/etc//imxcrypt/./initramfs.yaml.d", "/usr/lib/imxcrypt/initramfs.yaml.d"},
		},
		"/boot/board.yaml": {[]string{"/boot/board.yaml"}, []string{"/boot/board.yaml.d"}},
		"board.yaml":       {[]string{"board.yaml"}, []string{"board.yaml.d"}},
		"/etc/imxcrypt/imxcrypt.yaml.d/a.yaml": {
			[]string{"/etc/imxcrypt/imxcrypt.yaml.d/a.yaml"}, []string{"/etc/imxcrypt/imxcrypt.yaml.d/a.yaml.d"},
		},
	} {
		if got := layersOf(path); !slices.Equal(got.mains, want.mains) || !slices.Equal(got.dirs, want.dirs) {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// A file that is named explicitly has its drop-ins beside it, and must exist itself.
func TestDropInsOfANamedFile(t *testing.T) {
	t.Parallel()
	path := own(t, "board.yaml", volumeNamed("data"))
	if err := os.Mkdir(path+".d", 0o755); err != nil {
		t.Fatal(err)
	}
	dropIn := filepath.Join(path+".d", "logs.yaml")
	if err := os.WriteFile(dropIn, []byte(volumeNamed("logs")), 0o644); err != nil {
		t.Fatal(err)
	}
	o := Options{AllowAnyOwner: true}
	c, err := o.Load(path)
	if err != nil || len(c.Volumes) != 2 || c.File() != path || c.FileOf("data") != path || c.FileOf("logs") != dropIn {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := c.Volume("log"); err == nil || err.Error() != `no volume "log" in `+path+` and its drop-ins (1) (did you mean "logs"?)` {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Load(path); !fault.Is(err, fault.ConfigMissing) || !strings.HasPrefix(err.Error(), path+": ") {
		t.Errorf("drop-ins of a file that is missing: %v", err)
	}
}
