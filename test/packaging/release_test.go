// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// release returns the version in VERSION.
func release(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, "VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	version, _, _ := strings.Cut(string(text), "\n")
	return version
}

// A release is complete, the same wherever it is made, and its contents are what it
// claims.
func TestRelease(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("NOT TESTED: makes two releases, without -short only")
	}
	version := release(t)
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	copyTree(t, source)
	git(t, source, "init", "-q")
	git(t, source, "add", "-f", ".")
	git(t, source, "commit", "-q", "-m", "the release")

	key := filepath.Join(dir, "key")
	command(t, dir, []string{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a test", "-f", key})
	// make makes a release from its own clone, in its own environment.
	make := func(name, umask string, env ...string) string {
		clone, out := filepath.Join(dir, name), filepath.Join(dir, name+"-release")
		git(t, dir, "clone", "-q", source, clone)
		command(t, clone, []string{"sh", "-c", "umask " + umask + `; packaging/release "$0" "$1"`, version, out}, append(env, "IMXCRYPT_SIGNING_KEY="+key)...)
		return out
	}
	out := make("one", "022")
	home := t.TempDir()
	again := make("another one", "077", "HOME="+home, "TZ=Asia/Kathmandu", "LC_ALL=C.UTF-8", "GOFLAGS=-buildvcs=true", "GOARM64=v9.0", "GOAMD64=v3",
		"GOCACHE="+command(t, top, []string{"go", "env", "GOCACHE"}), "GOMODCACHE="+command(t, top, []string{"go", "env", "GOMODCACHE"}))

	t.Run("the same twice", func(t *testing.T) {
		for name, text := range readFolder(t, out) {
			if other := readFolder(t, again)[name]; other != text {
				t.Errorf("%s: two releases differ", name)
			}
		}
	})
	t.Run("sums and signature", func(t *testing.T) {
		all := readFolder(t, out)
		want := []string{"SHA256SUMS", "SHA256SUMS.sig", "imxcrypt-" + version + ".cdx.json", "imxcrypt-" + version + ".tar.gz"}
		for _, part := range []string{"linux-amd64", "linux-arm", "linux-arm64", "yocto", "buildroot"} {
			want = append(want, "imxcrypt-"+version+"-"+part+".tar.gz")
		}
		for _, arch := range []string{"amd64", "arm64", "armhf"} {
			want = append(want, "imxcrypt_"+version+"-1_"+arch+".deb")
		}
		sums := ""
		var have []string
		for name, text := range all {
			have = append(have, name)
			if !strings.HasPrefix(name, "SHA256SUMS") {
				sums += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(text)), name)
			}
		}
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("a release is\n%q, expected\n%q", have, want)
		}
		if got := all["SHA256SUMS"]; len(got) != len(sums) {
			t.Errorf("SHA256SUMS is\n%s, expected, in its order,\n%s", got, sums)
		}
		for line := range strings.Lines(sums) {
			if !strings.Contains(all["SHA256SUMS"], line) {
				t.Errorf("SHA256SUMS lacks %s", line)
			}
		}
		public, err := os.ReadFile(key + ".pub")
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "allowed"), append([]byte("release@imxcrypt "), public...), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		command(t, out, []string{"sh", "-c", `ssh-keygen -Y verify -f "$0" -I release@imxcrypt -n imxcrypt-release -s SHA256SUMS.sig <SHA256SUMS`, filepath.Join(dir, "allowed")})
	})
	t.Run("contents", func(t *testing.T) {
		for _, arch := range []string{"amd64", "arm64", "arm"} {
			name := "imxcrypt-" + version + "-linux-" + arch
			list := command(t, out, []string{"tar", "-tzf", name + ".tar.gz"})
			for _, want := range append(installed(), "/LICENSE", "/NOTICE", "/THIRD_PARTY_LICENSES", "/README.md") {
				if !slices.Contains(strings.Split(list, "\n"), name+want) {
					t.Errorf("%s lacks %s", name, want)
				}
			}
		}
		command(t, dir, []string{"tar", "-xzf", filepath.Join(out, "imxcrypt-"+version+"-linux-"+nativeGo(t)+".tar.gz")})
		said := command(t, dir, []string{"imxcrypt-" + version + "-linux-" + nativeGo(t) + "/usr/bin/imxcrypt", "version"})
		if !strings.HasPrefix(said, "imxcrypt "+version+" (") {
			t.Errorf("the program says it is %s", said)
		}
		command(t, dir, []string{"tar", "-xzf", filepath.Join(out, "imxcrypt-"+version+".tar.gz")})
		if got := command(t, dir, []string{"imxcrypt-" + version + "/packaging/version"}); got != version {
			t.Errorf("the source tarball says it is %s", got)
		}
		if _, err := os.Stat(filepath.Join(dir, "imxcrypt-"+version, "vendor/modules.txt")); err != nil {
			t.Errorf("the source tarball has no modules: %v", err)
		}
	})
	t.Run("recipes have the sums of what they fetch", func(t *testing.T) {
		sums := readFolder(t, out)["SHA256SUMS"]
		sum := func(name string) string {
			before, _, _ := strings.Cut(sums, "  imxcrypt-"+version+name+".tar.gz\n")
			return before[strings.LastIndex(before, "\n")+1:]
		}
		yocto := command(t, out, []string{"tar", "-xzOf", "imxcrypt-" + version + "-yocto.tar.gz", "imxcrypt-" + version + "-yocto/meta-imxcrypt/recipes-security/imxcrypt/imxcrypt-sums.inc"})
		for variable, name := range map[string]string{"SOURCE": "", "ARM64": "-linux-arm64", "ARM": "-linux-arm", "AMD64": "-linux-amd64"} {
			if want := "IMXCRYPT_SHA256_" + variable + " = \"" + sum(name) + "\""; len(sum(name)) != 64 || !slices.Contains(strings.Split(yocto, "\n"), want) {
				t.Errorf("the layer lacks %s:\n%s", want, yocto)
			}
		}
		buildroot := command(t, out, []string{"tar", "-xzOf", "imxcrypt-" + version + "-buildroot.tar.gz", "imxcrypt-" + version + "-buildroot/package/imxcrypt/imxcrypt.hash"})
		if want := "sha256  " + sum("") + "  imxcrypt-" + version + ".tar.gz"; !slices.Contains(strings.Split(buildroot, "\n"), want) {
			t.Errorf("Buildroot's package lacks %s:\n%s", want, buildroot)
		}
	})
	t.Run("what is in the program", func(t *testing.T) {
		var bom struct {
			Metadata struct {
				Component struct{ Name, Version string }
			}
			Components []struct{ Name, Version, Purl string }
		}
		if err := json.Unmarshal([]byte(readFolder(t, out)["imxcrypt-"+version+".cdx.json"]), &bom); err != nil {
			t.Fatal(err)
		}
		if c := bom.Metadata.Component; c.Name != "imxcrypt" || c.Version != "v"+version {
			t.Errorf("it is of %v", c)
		}
		var have, want []string
		for _, c := range bom.Components {
			have = append(have, c.Name+" "+c.Version)
			if c.Name != "std" && !strings.HasPrefix(c.Purl, "pkg:golang/"+c.Name+"@"+c.Version) {
				t.Errorf("%s %s is named %s", c.Name, c.Version, c.Purl)
			}
		}
		for _, m := range linked(t) {
			want = append(want, m.Path+" "+m.Version)
		}
		want = append(want, "std "+command(t, top, []string{"go", "env", "GOVERSION"}))
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("it names\n%q, the program is made of\n%q", have, want)
		}
	})
	t.Run("lintian", func(t *testing.T) {
		packages, err := filepath.Glob(filepath.Join(out, "*.deb"))
		if err != nil {
			t.Fatal(err)
		}
		t.Log(command(t, out, append([]string{"lintian", "--allow-root", "--fail-on", "error"}, packages...)))
	})
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run("installed in a clean system of "+suite, func(t *testing.T) {
			if suite != "bookworm" && os.Getenv("IMXCRYPT_SOAK") == "" {
				t.Skip("NOT TESTED: the package on Debian 13, of which a system takes a minute to make (IMXCRYPT_SOAK=1)")
			}
			inCleanSystem(t, suite, filepath.Join(out, "imxcrypt_"+version+"-1_"+nativeDebian(t)+".deb"), version)
		})
	}
}

// readFolder reads all files of a folder.
func readFolder(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}

// nativeGo and nativeDebian return the names of this machine's architecture.
func nativeGo(t *testing.T) string { return command(t, top, []string{"go", "env", "GOHOSTARCH"}) }
func nativeDebian(t *testing.T) string {
	return command(t, top, []string{"dpkg", "--print-architecture"})
}

// A release whose contents would differ from what it claims is refused before anything
// is made.
func TestReleaseRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	copyTree(t, dir, "test", "volume")
	git(t, dir, "init", "-q")
	git(t, dir, "add", "-f", ".")
	git(t, dir, "commit", "-q", "-m", "the release")
	refused := func(part, version string) {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out")
		said := command(t, dir, []string{"sh", "-c", `if packaging/release "$0" "$1" 2>&1; then echo done; fi`, version, out})
		if !strings.Contains(said, part) {
			t.Errorf("release %s says\n%s\nand not %q", version, said, part)
		}
		if left, _ := os.ReadDir(out); len(left) > 0 {
			t.Errorf("release %s: %v is left", version, left)
		}
	}
	refused("is not a version", "latest")
	refused("VERSION says "+release(t), "97.0.0")
	if err := os.WriteFile(filepath.Join(dir, "VERSION"), []byte("97.0.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused("not committed", "97.0.0")
	git(t, dir, "commit", "-q", "-a", "-m", "another version")
	refused("CHANGELOG.md has no entry", "97.0.0")
	if err := os.RemoveAll(filepath.Join(dir, ".git")); err != nil {
		t.Fatal(err)
	}
	refused("not a clone", "97.0.0")
}
