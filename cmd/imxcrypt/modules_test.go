// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"imxcrypt/boot"
	"imxcrypt/internal/program"
	"imxcrypt/volume/spec"
)

func TestModulesAreLoadedWhereTheyAreMissing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mapper, loop, program bool
		spec                  spec.Volume
		asked                 string
		message               string
	}{
		"there already":            {mapper: true, program: true},
		"a module":                 {program: true, asked: "-q -a dm-mod dm-crypt\n"},
		"no modprobe":              {message: "could not be loaded"},
		"there, no tool":           {mapper: true},
		"a header in a file":       {mapper: true, program: true, spec: spec.Volume{Header: "/boot/data.luks"}, asked: "-q -a loop\n"},
		"a volume in a file":       {program: true, spec: spec.Volume{Device: "/srv/data.img"}, asked: "-q -a dm-mod dm-crypt loop\n"},
		"in a file, loop is there": {mapper: true, loop: true, program: true, spec: spec.Volume{Device: "/srv/data.img"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			there, asked := driverNodes{filepath.Join(dir, "control"), filepath.Join(dir, "loop-control")}, filepath.Join(dir, "asked")
			for path, is := range map[string]bool{there.mapper: c.mapper, there.loop: c.loop} {
				if is {
					if err := os.WriteFile(path, nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			if c.spec.Device == "" {
				c.spec.Device = "/dev/mmcblk2p3"
			}
			if c.spec.Header == "" {
				c.spec.Header = spec.HeaderOnDevice
			}
			if c.program {
				script := "#!/bin/sh\necho \"$@\" >" + asked + "\n"
				syscall.ForkLock.RLock() // or a fork of a parallel test has it open: ETXTBSY
				err := os.WriteFile(filepath.Join(dir, "modprobe"), []byte(script), 0o700)
				syscall.ForkLock.RUnlock()
				if err != nil {
					t.Fatal(err)
				}
			}
			var stderr bytes.Buffer
			a := &app{stderr: &stderr, logLevel: "info", getenv: func(string) string { return "" }}
			if err := a.prepare(); err != nil {
				t.Fatal(err)
			}
			a.loadModules(context.Background(), boot.Plan{Steps: []boot.Step{{Spec: c.spec}}}, there, program.Runner{Dirs: []string{dir}})
			if got, _ := os.ReadFile(asked); string(got) != c.asked {
				t.Errorf("modprobe was asked for %q, expected %q", got, c.asked)
			}
			if !strings.Contains(stderr.String(), c.message) || c.message == "" && stderr.Len() > 0 {
				t.Errorf("message %q", stderr.String())
			}
		})
	}
}
