// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"os"
	"path/filepath"
	"testing"

	"imxcrypt/configs"
	"imxcrypt/internal/fault"
)

// The kernel command line chooses among the configuration's own files, and cannot be one
// itself.
func TestWhatTheKernelCommandLineMayName(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir, other := filepath.Join(root, "etc/imxcrypt"), filepath.Join(root, "etc/imxcrypt-not")
	for _, d := range []string{dir, other, filepath.Join(dir, "more")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{filepath.Join(dir, "a.yaml"), filepath.Join(dir, "more/b.yaml"), filepath.Join(other, "c.yaml")} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"store.yaml": filepath.Join(other, "c.yaml"), "cmdline.yaml": "/proc/self/cmdline", "proc": "/proc", "kernel.yaml": "/sys/kernel/notes"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]fault.Code{
		filepath.Join(dir, "a.yaml"):      "",
		filepath.Join(dir, "more/b.yaml"): "",
		// A link made by root, as on systems that are built from a store.
		filepath.Join(dir, "store.yaml"): "",
		filepath.Join(dir, "none.yaml"):  fault.ConfigMissing,

		"/proc/cmdline":                      fault.ConfigUntrusted,
		"/proc/self/cmdline":                 fault.ConfigUntrusted,
		"/sys/kernel/notes":                  fault.ConfigUntrusted,
		dir:                                  fault.ConfigUntrusted,
		filepath.Join(other, "c.yaml"):       fault.ConfigUntrusted,
		dir + "/../imxcrypt-not/c.yaml":      fault.ConfigUntrusted,
		dir + "//a.yaml":                     fault.ConfigUntrusted,
		"etc/imxcrypt/a.yaml":                fault.ConfigUntrusted,
		filepath.Join(dir, "cmdline.yaml"):   fault.ConfigUntrusted,
		filepath.Join(dir, "proc/cmdline"):   fault.ConfigUntrusted,
		filepath.Join(dir, "kernel.yaml"):    fault.ConfigUntrusted,
		filepath.Join(dir, "proc/1/environ"): fault.ConfigUntrusted,
	} {
		if err := configs.NamedAtBoot(path, []string{dir}); fault.CodeOf(err) != want && (err != nil || want != "") {
			t.Errorf("%s: expected %q, got %v", path, want, err)
		}
	}
}
