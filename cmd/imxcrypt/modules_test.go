// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imxcrypt/internal/program"
)

func TestDeviceMapperIsLoadedWhereItIsMissing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		control, program bool
		asked            string
		message          string
	}{
		"there already":  {control: true, program: true},
		"a module":       {program: true, asked: "-q -a dm-mod dm-crypt\n"},
		"no modprobe":    {message: "could not be loaded"},
		"there, no tool": {control: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			control, asked := filepath.Join(dir, "control"), filepath.Join(dir, "asked")
			if c.control {
				if err := os.WriteFile(control, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if c.program {
				script := "#!/bin/sh\necho \"$@\" >" + asked + "\n"
				if err := os.WriteFile(filepath.Join(dir, "modprobe"), []byte(script), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			var stderr bytes.Buffer
			a := &app{stderr: &stderr, logLevel: "info", getenv: func(string) string { return "" }}
			if err := a.prepare(); err != nil {
				t.Fatal(err)
			}
			a.loadModules(context.Background(), control, program.Runner{Dirs: []string{dir}})
			if got, _ := os.ReadFile(asked); string(got) != c.asked {
				t.Errorf("modprobe was asked for %q, expected %q", got, c.asked)
			}
			if !strings.Contains(stderr.String(), c.message) || c.message == "" && stderr.Len() > 0 {
				t.Errorf("message %q", stderr.String())
			}
		})
	}
}
