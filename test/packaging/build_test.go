// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The same sources give the same bytes: here, and in another folder inside someone
// else's repository, with another HOME, cache, module cache, umask and time zone, and
// with every variable set that go build obeys.
func TestBuildIsReproducible(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("NOT TESTED: builds the whole program, without -short only")
	}
	place := filepath.Join(t.TempDir(), "somebody's repository", "imxcrypt")
	copyTree(t, place, "test", "volume/testdata")
	git(t, filepath.Dir(place), "init", "-q")
	git(t, filepath.Dir(place), "commit", "-q", "--allow-empty", "-m", "theirs")
	git(t, filepath.Dir(place), "tag", "v9.9.9")

	home := t.TempDir()
	modules := filepath.Join(t.TempDir(), "modules")
	t.Cleanup(func() { command(t, top, []string{"go", "clean", "-modcache"}, "GOMODCACHE="+modules) })
	settings := filepath.Join(home, ".config/go/env")
	if err := os.MkdirAll(filepath.Dir(settings), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, []byte("GOFLAGS=-buildvcs=true -tags=theirs\nGOARM64=v9.0\nGOAMD64=v3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	hostile := []string{
		"HOME=" + home, "GOENV=" + settings, "GOMODCACHE=" + modules,
		"GOPROXY=file://" + command(t, top, []string{"go", "env", "GOMODCACHE"}) + "/cache/download", "GOSUMDB=off",
		"GOFLAGS=-buildvcs=true -trimpath=false -ldflags=-X=main.version=theirs", "GOEXPERIMENT=arenas", "GOFIPS140=latest",
		"GOAMD64=v3", "GOARM64=v9.0", "GOARM=5", "CGO_ENABLED=1", "GOWORK=" + filepath.Join(home, "go.work"),
		"TZ=Asia/Kathmandu", "LC_ALL=C",
	}
	// All builds but the first use the shared cache. What they take from there, an
	// earlier build has made with the same flags; the first has nothing to take.
	shared := command(t, top, []string{"go", "env", "GOCACHE"})
	cache := map[string]string{"amd64": filepath.Join(home, "cache"), "arm64": shared, "arm": shared}
	for arch, cache := range cache {
		here, there := filepath.Join(t.TempDir(), "here"), filepath.Join(t.TempDir(), "there")
		command(t, top, []string{"packaging/build", arch, here, "./cmd/imxcrypt", "1.2.3"})
		command(t, place, []string{"sh", "-c", "umask 077; exec packaging/build " + arch + ` "$0" ./cmd/imxcrypt 1.2.3`, there},
			append(hostile, "GOCACHE="+cache)...)
		a, err := os.ReadFile(here)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(there)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: %d and %d bytes differ between two places\n%s\n%s", arch, len(a), len(b),
				command(t, top, []string{"go", "version", "-m", here}), command(t, top, []string{"go", "version", "-m", there}))
		}
	}
}

// The version is that of the sources, not of a repository into which they were
// unpacked.
func TestVersion(t *testing.T) {
	t.Parallel()
	base, err := os.ReadFile(filepath.Join(top, "VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	release, _, _ := strings.Cut(string(base), "\n")
	dir := t.TempDir()
	ours := filepath.Join(dir, "ours")
	for _, name := range []string{"VERSION", ".gitattributes", "packaging/version"} {
		text, err := os.ReadFile(filepath.Join(top, name))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(ours, name)), 0o755)
		}
		if err == nil {
			err = writeProgram(filepath.Join(ours, name), string(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	version := func(place string, args ...string) string {
		t.Helper()
		return command(t, dir, append([]string{filepath.Join(place, "packaging/version")}, args...))
	}
	is := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: version %q, expected %q", what, got, want)
		}
	}
	// archive unpacks what git archive makes from the repository, as a server does.
	archive := func(name string) string {
		t.Helper()
		place := filepath.Join(dir, name)
		git(t, ours, "archive", "--prefix="+name+"/", "-o", place+".tar", "HEAD")
		command(t, dir, []string{"tar", "-xf", place + ".tar"})
		return place
	}

	git(t, dir, "init", "-q")
	git(t, dir, "commit", "-q", "--allow-empty", "-m", "theirs")
	git(t, dir, "tag", "v9.9.9")
	is("sources of unknown commit in another's repository", version(ours), release+"-dev")
	is("their time", version(ours, "--date"), "0")

	git(t, ours, "init", "-q")
	git(t, ours, "add", ".")
	git(t, ours, "commit", "-q", "-m", "ours")
	commit := git(t, ours, "rev-parse", "HEAD")[:12]
	date := git(t, ours, "log", "-1", "--format=%ct")
	is("before the first tag", version(ours), release+"-dev+"+commit)
	is("its archive in another's repository", version(archive("early")), release+"-dev+"+commit)
	git(t, ours, "tag", "v1.2.3")
	is("at a tag", version(ours), "1.2.3")
	is("its archive", version(archive("tagged")), "1.2.3")
	is("the archive's time", version(filepath.Join(dir, "tagged"), "--date"), date)
	is("the repository's time", version(ours, "--date"), date)
	git(t, ours, "commit", "-q", "--allow-empty", "-m", "later")
	later := git(t, ours, "describe", "--tags")
	is("after a tag", version(ours), strings.TrimPrefix(later, "v"))
	is("its archive", version(archive("later")), strings.TrimPrefix(later, "v"))
	if err := os.WriteFile(filepath.Join(ours, ".gitattributes"), []byte("# changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	is("a change that nobody committed", version(ours), strings.TrimPrefix(later, "v")+"-dirty")

	tarball := filepath.Join(dir, "tagged")
	if err := os.WriteFile(filepath.Join(tarball, "VERSION"), []byte("2.0.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	is("the tarball of a release in another's repository", version(tarball), "2.0.0")
}
