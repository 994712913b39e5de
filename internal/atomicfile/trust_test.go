// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"imxcrypt/internal/fault"
)

// A file is trusted under the same rules as the configuration: root owns it, and no other
// user can write or replace it.
func TestTrusted(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: owners can be changed by root only")
	}
	for name, c := range map[string]struct {
		spoil func(dir, file string) error
		want  error
	}{
		"root's":                        {func(_, _ string) error { return nil }, nil},
		"writable by the group":         {func(_, file string) error { return os.Chmod(file, 0o620) }, ErrMode},
		"writable by others":            {func(_, file string) error { return os.Chmod(file, 0o602) }, ErrMode},
		"somebody else's":               {func(_, file string) error { return os.Chown(file, 1000, 0) }, ErrOwner},
		"in somebody else's folder":     {func(dir, _ string) error { return os.Chown(dir, 1000, 0) }, ErrOwner},
		"in a folder that others write": {func(dir, _ string) error { return os.Chmod(dir, 0o777) }, ErrMode},
		"in a sticky folder":            {func(dir, _ string) error { return os.Chmod(dir, 0o777|fs.ModeSticky) }, nil},
		"a link of somebody else's":     {func(dir, file string) error { return errors.Join(relink(dir, file, "kept"), os.Lchown(file, 1000, 0)) }, ErrOwner},
		"a link":                        {func(dir, file string) error { return relink(dir, file, "kept") }, nil},
		"a link to a folder that others write": {func(dir, file string) error {
			return errors.Join(relink(dir, file, "kept"), os.Chmod(filepath.Join(dir, "kept"), 0o777))
		}, ErrMode},
		"a folder": {func(_, file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) }, ErrNotRegular},
		"gone":     {func(_, file string) error { return os.Remove(file) }, fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "header")
			if err := errors.Join(os.WriteFile(file, []byte("x"), 0o600), c.spoil(dir, file)); err != nil {
				t.Fatal(err)
			}
			err := Trusted(file)
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, expected %v", err, c.want)
			}
			if (c.want == ErrMode || c.want == ErrOwner) && fault.CodeOf(err) != fault.FileUnsafe {
				t.Fatalf("code %s", fault.CodeOf(err))
			}
		})
	}
}

// relink moves the file into a subfolder and leaves a link.
func relink(dir, file, below string) error {
	to := filepath.Join(dir, below, "header")
	return errors.Join(os.Mkdir(filepath.Join(dir, below), 0o700), os.Rename(file, to), os.Symlink(to, file))
}
