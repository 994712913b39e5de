// SPDX-License-Identifier: Apache-2.0

// Demo shows the main job on a virtual i.MX-like board: provisioning, a power
// cycle, unlocking at boot, and the same disk in another chip. What it prints is
// what the README shows; it fails if anything is not as it should be.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"imxcrypt/test/vm"
)

const (
	config = `volumes:
  - name: data
    device: /dev/vda
    mount: {path: /data, options: [noatime, nodev, nosuid]}
`
	secret   = "meet me at the old oak"
	diskSize = 64 << 20
)

func main() {
	os.Exit(vm.Main("demo", run))
}

func run(h vm.TB) {
	start := time.Now()
	say("A virtual board: arm64, Cortex-A53 (software emulation), simulated CAAM, chip closed.")
	disk := vm.NewDisk(h, diskSize)
	m := vm.Start(h, vm.Config{
		Arch: vm.ARM64, Disks: []*vm.Disk{disk}, SimCAAM: &vm.SimCAAM{Closed: true},
		Imxcrypt: vm.BuildProgram(h, "./cmd/imxcrypt", "arm64"),
	})
	b := &board{h: h, m: m}
	b.prepare()

	b.run(0, "imxcrypt provision -v data")
	b.run(0, "echo '"+secret+"' > /data/note && sync")
	say("\nWhat lies on the raw disk:")
	if strings.Contains(string(m.Get("/dev/vda")), secret) {
		h.Fatalf("the note lies on the disk in plain text")
	}
	say("  the note is not in its %d MiB in plain text; cryptsetup and blkid know the volume:", diskSize>>20)
	b.excerpt("cryptsetup luksDump /dev/vda", "Version:", "UUID:", "Label:", "Subsystem:", "Requirements:", "cipher:", "sector:", "0: imxcrypt")

	say("\n--- power off, power on ---\n")
	m.Restart()
	b.prepare()
	b.run(0, "imxcrypt boot -v")
	if got := b.run(0, "cat /data/note"); strings.TrimSpace(got) != secret {
		h.Fatalf("the note came back as %q", got)
	}
	b.run(0, "imxcrypt status")

	say("\n--- the same disk in a board with another chip ---\n")
	m.Restart(func(c *vm.Config) { c.SimCAAM.OTPMK = strings.Repeat("c4", 32) })
	b.prepare()
	b.run(3, "imxcrypt boot")
	say("\nAll as it should be, in %d s with three boots of the board.", int(time.Since(start).Seconds()))
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// board runs commands in the machine and shows them.
type board struct {
	h vm.TB
	m *vm.Machine
}

// prepare is what a board's image brings along.
func (b *board) prepare() {
	b.m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(config))
	b.m.MustSh("mkdir -p /data")
}

func (b *board) run(code int, command string) string {
	say("# %s", command)
	r := b.m.Sh(command)
	show(r.Stderr)
	show(r.Stdout)
	if r.Code != code {
		b.h.Fatalf("exit code %d, expected %d", r.Code, code)
	}
	if code != 0 {
		say("  (exit code %d)", code)
	}
	return r.Stdout
}

// excerpt shows those lines of a long output that contain one of the words.
func (b *board) excerpt(command string, words ...string) {
	say("# %s", command)
	r := b.m.Sh(command)
	if r.Code != 0 {
		show(r.Stderr)
		b.h.Fatalf("exit code %d", r.Code)
	}
	var shown []string
	for line := range strings.Lines(r.Stdout) {
		for _, w := range words {
			if strings.Contains(line, w) {
				shown = append(shown, strings.Join(strings.Fields(line), " "))
				break
			}
		}
	}
	if len(shown) < len(words) {
		b.h.Fatalf("of %q only these lines were found: %q", words, shown)
	}
	show(strings.Join(shown, "\n"))
}

func show(text string) {
	for line := range strings.Lines(text) {
		fmt.Println("  " + strings.TrimRight(line, "\n"))
	}
}
