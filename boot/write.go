// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteUnits writes units below the directory that systemd passed to its generators. At
// each run the directory is new and empty except for what other generators wrote. So a
// file that already exists belongs to another generator: it is kept, and is an error. The
// other units are still written.
func WriteUnits(dir string, units []Unit) error {
	var errs []error
	for _, u := range units {
		if err := writeUnit(filepath.Join(dir, u.Path), u); err != nil {
			errs = append(errs, fmt.Errorf("unit %s: %w", u.Path, err))
		}
	}
	return errors.Join(errs...)
}

func writeUnit(path string, u Unit) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if u.Link != "" {
		err := os.Symlink(u.Link, path)
		if there, readErr := os.Readlink(path); errors.Is(err, fs.ErrExist) && readErr == nil && there == u.Link {
			return nil
		}
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(u.Text)
	return errors.Join(err, f.Close())
}
