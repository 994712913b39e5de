// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// docs/try.md, followed block by block on a machine without any key hardware.
func TestTryOnAPC(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/try.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## A volume in a file\n")
	section, _, ok2 := strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```(\\w*)\n(.*?)```").FindAllStringSubmatch(section, -1)
	if !ok || !ok2 || len(blocks) != 6 || blocks[1][1] != "yaml" {
		t.Fatalf("the page has %d blocks", len(blocks))
	}
	m := vm.Start(t, vm.Config{Arch: vm.AMD64, Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "amd64")})
	export := ""
	for _, b := range blocks {
		if b[1] == "yaml" {
			m.Put("/root/trial/imxcrypt.yaml", []byte(b[2]))
			continue
		}
		for _, command := range commands(b[2]) {
			if strings.HasPrefix(command, "export ") {
				export = command + "\n"
			}
			r := m.Sh(export + command)
			t.Logf("# %s\n%s%s", command, r.Stdout, r.Stderr)
			if r.Code != 0 {
				t.Fatalf("%s: exit code %d", command, r.Code)
			}
			if command == "cat /mnt/trial/file" && r.Stdout != "hello\n" {
				t.Errorf("the file came back as %q", r.Stdout)
			}
		}
	}
	if r := m.Sh("ls /dev/mapper; ls /root"); r.Stdout != "control\n" {
		t.Errorf("the end leaves %s", r.Stdout)
	}
}
