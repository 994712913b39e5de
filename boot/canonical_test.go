// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"os"
	"path/filepath"
	"testing"

	"imxcrypt/boot"
)

func TestCanonical(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, dir := range []string{"var/volatile", "data/real", "home"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"var/log": "volatile/log", "srv": "/data", "data/up": "../home", "data/far": "../../../../home", "a": "b", "b": "a", "self": "self/x", "home/two": "/srv/real",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for in, want := range map[string]string{
		"/data":           "/data",
		"/":               "/",
		"/not/yet/there":  "/not/yet/there",
		"/var/log":        "/var/volatile/log", // Yocto
		"/var/log/app":    "/var/volatile/log/app",
		"/srv/real":       "/data/real",
		"/srv/new":        "/data/new",
		"/data/up":        "/home",
		"/data/far/x":     "/home/x",
		"/home/two/three": "/data/real/three",
		"/a":              "/a",
		"/self/y":         "/self/y",
	} {
		if got := boot.Canonical(root, in); got != want {
			t.Errorf("%s: %s, expected %s", in, got, want)
		}
	}
}
