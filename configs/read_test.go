// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"imxcrypt/internal/fault"
)

const small = "volumes: [{name: data, device: /dev/sda}]\n"

// own makes a file with the given contents in its own folder, which only its owner can
// write to.
func own(t *testing.T, name, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "etc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		// make returns the path to load.
		make func(t *testing.T) string
		code fault.Code
		says string
	}{
		{"missing", func(t *testing.T) string { return filepath.Join(t.TempDir(), "no.yaml") },
			fault.ConfigMissing, "there is no such file; write one (`imxcrypt config example minimal` prints one to begin with), or name another with --config"},
		{"a folder", func(t *testing.T) string { return filepath.Dir(own(t, "x", "")) },
			fault.FileUnsafe, "is not a regular file"},
		{"a pipe nobody writes to", func(t *testing.T) string {
			path := own(t, "x", "") + ".pipe"
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}, fault.FileUnsafe, "is not a regular file"},
		{"more than a MiB", func(t *testing.T) string {
			return own(t, "x.yaml", small+strings.Repeat("#\n", mib/2))
		}, fault.ConfigInvalid, "is larger than 1MiB"},
		{"a link that leads nowhere", func(t *testing.T) string {
			path := own(t, "x", "") + ".yaml"
			if err := os.Symlink("nowhere", path); err != nil {
				t.Fatal(err)
			}
			return path
		}, fault.ConfigMissing, "there is no such file, only a symbolic link to nowhere"},
		{"a link in a circle", func(t *testing.T) string {
			path := own(t, "x", "") + ".yaml"
			if err := os.Symlink(path, path); err != nil {
				t.Fatal(err)
			}
			return path
		}, fault.Failed, "cannot be opened: too many levels of symbolic links"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := c.make(t)
			_, err := Options{AllowAnyOwner: true}.Load(path)
			var e *Error
			if !errors.As(err, &e) || e.File != path || fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), path+": "+c.says) {
				t.Errorf("got %v (%s)", err, fault.CodeOf(err))
			}
		})
	}
}

func TestCauseIsKept(t *testing.T) {
	t.Parallel()
	path := own(t, "x", "") + ".yaml"
	if err := os.Symlink(path, path); err != nil {
		t.Fatal(err)
	}
	if _, err := (Options{AllowAnyOwner: true}).Load(path); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("got %v, want ELOOP inside", err)
	}
}

// If the tests do not run as root, every file belongs to another user, and only the
// refusal can be tested.
func TestOnlyRootsFilesAreTrusted(t *testing.T) {
	t.Parallel()
	path := own(t, "x.yaml", small)
	_, err := Load(path)
	if os.Getuid() != 0 {
		if !fault.Is(err, fault.ConfigUntrusted) {
			t.Errorf("a file of user %d: %v", os.Getuid(), err)
		}
		t.Skip("NOT TESTED: files of root's, which only root can make")
	}
	if err != nil {
		t.Fatalf("a file of root's: %v", err)
	}
	refused := func(what, says string) {
		t.Helper()
		_, err := Load(path)
		if !fault.Is(err, fault.ConfigUntrusted) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := (Options{AllowAnyOwner: true}).Load(path); err != nil {
			t.Errorf("%s, with any owner allowed: %v", what, err)
		}
	}
	chmod(t, path, 0o664)
	refused("writable by the group", path+" can be written by users other than root (mode 0664); chmod go-w "+path)
	chmod(t, path, 0o646)
	refused("writable by all", "(mode 0646)")
	chmod(t, path, 0o444)
	dir := filepath.Dir(path)
	chmod(t, dir, 0o777)
	refused("in a folder that all can write", dir+" can be written by users other than root (mode 0777)")
	chmod(t, dir, 0o777|fs.ModeSticky)
	if _, err := Load(path); err != nil {
		t.Errorf("in a sticky folder, where others cannot replace it: %v", err)
	}
	chmod(t, dir, 0o755)
	if err := os.Chown(path, 12345, 0); err != nil {
		t.Fatal(err)
	}
	refused("another user's", path+" belongs to user 12345, not to root; chown root:root "+path)
}

func TestLinksAreFollowedAndBothEndsChecked(t *testing.T) {
	t.Parallel()
	store, link := own(t, "stored.yaml", small), filepath.Join(filepath.Dir(own(t, "x", "")), "imxcrypt.yaml")
	if err := os.Symlink(store, link); err != nil {
		t.Fatal(err)
	}
	c, err := Options{AllowAnyOwner: true}.Load(link)
	if err != nil || c.File() != link {
		t.Fatalf("%v, %v", c, err)
	}
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: links to files of root's, which only root can make")
	}
	if _, err := Load(link); err != nil {
		t.Fatalf("all root's: %v", err)
	}
	chmod(t, filepath.Dir(store), 0o775)
	if _, err := Load(link); !fault.Is(err, fault.ConfigUntrusted) || !strings.Contains(err.Error(), filepath.Dir(store)) {
		t.Errorf("into a folder that others can write: %v", err)
	}
	chmod(t, filepath.Dir(store), 0o755)
	if err := os.Lchown(link, 12345, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(link); !fault.Is(err, fault.ConfigUntrusted) || !strings.Contains(err.Error(), "user 12345") {
		t.Errorf("another user's link: %v", err)
	}
}

func TestOtherLanguagesAreRefusedByName(t *testing.T) {
	t.Parallel()
	_, err := Parse("imxcrypt.toml", []byte("state_dir = '/x'\n"))
	if err == nil || err.Error() != "imxcrypt.toml: the configuration is YAML, not TOML; write it as YAML or JSON, and name it .yaml" {
		t.Errorf("got %v", err)
	}
}

func TestEnvironmentIsNotRead(t *testing.T) {
	t.Setenv("STATE_DIR", "/from/environment")
	t.Setenv("IMXCRYPT_STATE_DIR", "/from/environment")
	if c := parse(t, small); c.StateDir != "/var/lib/imxcrypt" {
		t.Errorf("state_dir is %s", c.StateDir)
	}
}

// A file of hostile size is refused, or read in time proportional to its size.
func TestLargeAndDeepInput(t *testing.T) {
	t.Parallel()
	const size = 128 * kib // large enough to show time that is not proportional
	repeated := func(s string) []byte { return bytes.Repeat([]byte(s), size/len(s)) }
	for name, data := range map[string][]byte{
		"brackets":      repeated("["),
		"groups":        repeated("{a: "),
		"dashes":        repeated("- "),
		"fields":        repeated("a:\n"),
		"empty volumes": append([]byte("volumes:\n"), repeated(" - {}\n")...),
		"anchors":       repeated("- &a *a\n"),
		"one long name": append(repeated("x"), ": 1"...),
		"options":       append([]byte("volumes:\n- name: a\n  crypt_flags:\n"), repeated("  - xxxxxxx\n")...),
		"comments":      repeated("# \n"),
		"quotes":        repeated(`"a" `),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("x.yaml", data)
			if err == nil || len(err.Error()) > 64*kib {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	names, err := fs.Glob(Examples, "examples/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		data, err := Examples.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	messages, err := os.ReadFile(messagesFile)
	if err != nil {
		f.Fatal(err)
	}
	for section := range strings.SplitSeq(string(messages), "\n=== ") {
		_, body, _ := strings.Cut(section, "\n")
		input, _, _ := strings.Cut(body, "--- says\n")
		f.Add([]byte(input))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("x.yaml", data)
		if err != nil {
			var all *Errors
			if !errors.As(err, &all) || len(all.Problems) == 0 || len(all.Problems) > maxProblems {
				t.Fatalf("error is %#v", err)
			}
			for _, p := range all.Problems {
				if p.Err != nil || p.Reason == "" {
					t.Errorf("a problem that only viper saw, or without a reason: %v", p)
				}
			}
			return
		}
		again, err := Parse("x.yaml", c.YAML())
		if err != nil {
			t.Fatalf("does not load as shown: %v\n%s", err, c.YAML())
		}
		if !bytes.Equal(again.YAML(), c.YAML()) {
			t.Errorf("shown:\n%s\nthen:\n%s", c.YAML(), again.YAML())
		}
	})
}

// BenchmarkLoad measures what a boot does: read, check and validate three volumes.
func BenchmarkLoad(b *testing.B) {
	data, err := Examples.ReadFile("examples/several-volumes.yaml")
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "x.yaml")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (Options{AllowAnyOwner: true}).Load(path); err != nil {
			b.Fatal(err)
		}
	}
}
