// SPDX-License-Identifier: Apache-2.0

// Demo shows the main job on a virtual board like an i.MX: provisioning, a power cycle,
// unlocking at boot, and the same disk with another chip. It fails if anything is not
// as it should be. With -cast it also records its output as an asciicast.
package main

import (
	"flag"
	"fmt"
	"io"
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
	source := flag.String("source", "caam", "where keys come from: caam, or trusted on mainline's kernel")
	cast := flag.String("cast", "", "record the terminal in this `file` (asciicast 2)")
	flag.Parse()
	os.Exit(vm.Main("demo", func(h vm.TB) {
		s := screen{Writer: os.Stdout}
		if *cast != "" {
			file, err := os.Create(*cast)
			if err != nil {
				h.Fatalf("%v", err)
			}
			defer file.Close()
			s.Writer = io.MultiWriter(os.Stdout, newCast(file))
		}
		run(h, s, *source)
	}))
}

func run(h vm.TB, s screen, source string) {
	start := time.Now()
	c := vm.Config{
		Arch: vm.ARM64, Disks: []*vm.Disk{vm.NewDisk(h, diskSize)},
		Imxcrypt: vm.BuildProgram(h, "./cmd/imxcrypt", "arm64"),
	}
	// The configuration is the same for both: its source is auto.
	otherChip := func(c *vm.Config) { c.SimCAAM.OTPMK = strings.Repeat("c4", 32) }
	switch source {
	case "caam":
		s.say("A virtual board: arm64, Cortex-A53 (software emulation), simulated CAAM, chip closed.")
		c.SimCAAM = &vm.SimCAAM{Closed: true}
	case "trusted":
		s.say("A virtual board: arm64 (software emulation), mainline's kernel with its own CAAM driver, chip closed.")
		c.Mainline = &vm.Mainline{Keys: vm.CAAM}
		otherChip = func(c *vm.Config) { c.Mainline.OTPMK = "another chip" }
	default:
		h.Fatalf("source %q is not caam or trusted", source)
	}
	m := vm.Start(h, c)
	b := &board{screen: s, h: h, m: m}
	b.prepare()

	b.run(0, "imxcrypt provision -v data")
	b.run(0, "echo '"+secret+"' > /data/note && sync")
	s.say("\nWhat lies on the raw disk:")
	if strings.Contains(string(m.Get("/dev/vda")), secret) {
		h.Fatalf("the note lies on the disk in plain text")
	}
	s.say("  the note is not in its %d MiB in plain text; cryptsetup and blkid know the volume:", diskSize>>20)
	b.excerpt("cryptsetup luksDump /dev/vda", "Version:", "UUID:", "Label:", "Subsystem:", "Requirements:", "cipher:", "sector:", "0: imxcrypt")

	s.say("\n--- power off, power on ---\n")
	m.Restart()
	b.prepare()
	b.run(0, "imxcrypt boot -v")
	if got := b.run(0, "cat /data/note"); strings.TrimSpace(got) != secret {
		h.Fatalf("the note came back as %q", got)
	}
	b.run(0, "imxcrypt status")

	s.say("\n--- the same disk in a board with another chip ---\n")
	m.Restart(otherChip)
	b.prepare()
	b.run(3, "imxcrypt boot")
	s.say("\nAll as it should be, in %d s with three boots of the board.", int(time.Since(start).Seconds()))
}

// screen is the output that the user sees.
type screen struct{ io.Writer }

func (s screen) say(format string, args ...any) { fmt.Fprintf(s, format+"\n", args...) }

func (s screen) show(text string) {
	for line := range strings.Lines(text) {
		s.say("  %s", strings.TrimRight(line, "\n"))
	}
}

// board runs commands in the machine and shows them.
type board struct {
	screen
	h vm.TB
	m *vm.Machine
}

// prepare adds what is part of a board's image.
func (b *board) prepare() {
	b.m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(config))
	b.m.MustSh("mkdir -p /data")
}

func (b *board) run(code int, command string) string {
	b.say("# %s", command)
	r := b.m.Sh(command)
	b.show(r.Stderr)
	b.show(r.Stdout)
	if r.Code != code {
		b.h.Fatalf("exit code %d, expected %d", r.Code, code)
	}
	if code != 0 {
		b.say("  (exit code %d)", code)
	}
	return r.Stdout
}

// excerpt shows only the lines of a long output that contain one of the words.
func (b *board) excerpt(command string, words ...string) {
	b.say("# %s", command)
	r := b.m.Sh(command)
	if r.Code != 0 {
		b.show(r.Stderr)
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
	b.show(strings.Join(shown, "\n"))
}
