// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// quickStart holds what a new user does according to the README, word for word.
type quickStart struct {
	host, configuration, once, boot string
}

func readQuickStart(t *testing.T) (q quickStart) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Quick start on a board\n")
	section, _, ok2 := strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```\\w*\n(.*?)```").FindAllStringSubmatch(section, -1)
	if !ok || !ok2 || len(blocks) != 4 {
		t.Fatalf("the README's quick start has %d blocks, not: on the host, the configuration, on the board, at each boot", len(blocks))
	}
	return quickStart{blocks[0][1], blocks[1][1], blocks[2][1], blocks[3][1]}
}

// commands returns the lines of a block without their comments.
func commands(block string) (all []string) {
	for line := range strings.Lines(block) {
		command, _, _ := strings.Cut(line, " #")
		all = append(all, strings.TrimSpace(command))
	}
	return all
}

// The README's quick start, followed line by line on a board with an empty partition.
func TestQuickStart(t *testing.T) {
	t.Parallel()
	q := readQuickStart(t)
	host := commands(q.host)
	if len(host) != 2 || host[0] != "make build" {
		t.Fatalf("on the host: %q", host)
	}
	program, target, ok := strings.Cut(strings.TrimPrefix(host[1], "scp "), " root@board:")
	if !ok || program != "build/bin/arm64/imxcrypt" {
		t.Fatalf("how does the program get onto the board? %q", host[1])
	}

	m := vm.Start(t, vm.Config{Arch: vm.ARM64, Disks: []*vm.Disk{vm.NewDisk(t, 64<<20)}, SimCAAM: &vm.SimCAAM{Closed: true}})
	m.MustSh(`printf 'label: gpt\nname=data\n' | sfdisk -q /dev/vda`)
	install := func() {
		m.PutFile(path.Join(target, "imxcrypt"), vm.BuildProgram(t, "./cmd/imxcrypt", "arm64"))
		m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(q.configuration))
	}
	follow := func(block string) (output string) {
		for _, command := range commands(block) {
			r := m.Sh(command)
			t.Logf("# %s\n%s%s", command, r.Stdout, r.Stderr)
			if r.Code != 0 {
				t.Fatalf("%s: exit code %d", command, r.Code)
			}
			output += r.Stdout
		}
		return output
	}
	install()
	if out := follow(q.once); !strings.Contains(out, "0 problems") || !strings.Contains(out, "data: mounted on /data") {
		t.Error("it does not end with a mounted volume")
	}
	m.MustSh("echo 'the quick brown fox' > /data/fox && sync")
	m.Restart()
	install()
	m.MustSh("mkdir -p /data") // nothing in an initramfs survives a reboot
	follow(q.boot)
	if got := m.MustSh("cat /data/fox"); got != "the quick brown fox\n" {
		t.Errorf("the file came back as %q", got)
	}
}
