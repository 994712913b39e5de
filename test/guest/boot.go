// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"imxcrypt/test/guest/wire"
)

func mountAll() error {
	for _, m := range []struct{ target, fstype, options string }{
		{"/proc", "proc", ""},
		{"/sys", "sysfs", ""},
		{"/dev", "devtmpfs", "mode=0755"},
		{"/dev/pts", "devpts", "mode=0620"},
		{"/run", "tmpfs", "mode=0755"},
		{"/tmp", "tmpfs", "mode=1777"},
		{"/sys/fs/cgroup", "cgroup2", ""},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if mounted(m.target) {
			continue // by an initramfs before us
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, 0, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return unix.Sethostname([]byte("board"))
}

// mounted reports whether a directory is on another filesystem than its parent.
func mounted(dir string) bool {
	var st, parent unix.Stat_t
	return unix.Stat(dir, &st) == nil && unix.Stat(filepath.Dir(dir), &parent) == nil && st.Dev != parent.Dev
}

func readSettings() (wire.Settings, error) {
	var s wire.Settings
	text, err := os.ReadFile(wire.SettingsPath)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("%s: %w", wire.SettingsPath, err)
	}
	for _, path := range s.Withheld {
		if err := os.Remove(path); err != nil {
			return s, fmt.Errorf("withhold: %w", err)
		}
	}
	return s, nil
}

func loadModules(s wire.Settings) error {
	for _, m := range s.Modules {
		if err := loadModule(m); err != nil {
			return fmt.Errorf("load %s: %w", filepath.Base(m.Path), err)
		}
	}
	return nil
}

func loadModule(m wire.Module) error {
	f, err := os.Open(m.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), m.Params, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
