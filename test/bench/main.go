// SPDX-License-Identifier: Apache-2.0

// Bench measures, in one run of a virtual machine, the time from the start of a process
// until the volumes are mounted. It compares imxcrypt, the shell recipe that products
// use, and a C program that makes only the necessary system calls, either with black
// keys of the simulated CAAM or with trusted keys of a mainline kernel. Emulated time
// is not a board's time, and the host has other work, so what counts are the ratios
// between measurements taken in turn.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"imxcrypt/test/vm"
)

const diskSize = 24 << 20

// Key sources.
const (
	sourceCAAM    = "caam"
	sourceTrusted = "trusted"
)

// options say what is measured, and how.
type options struct {
	arch   vm.Arch
	source string
	rounds int
	// counted makes time the number of instructions, which is the same in every run
	// however busy the host is. Only one virtual processor runs at a time.
	counted bool
	against string
	times   bool
	sectors bool
	// ciphers compares those of all sources on one board that has them; protected
	// measures the cipher of protected keys.
	ciphers, protected bool
}

// volumes returns the number of volumes. Measuring several with one source is enough.
func (o options) volumes() int {
	if o.source == sourceCAAM {
		return 8
	}
	return 1
}

func main() {
	var o options
	flag.StringVar((*string)(&o.arch), "arch", "arm64", "amd64 or arm64")
	flag.StringVar(&o.source, "source", sourceCAAM, "caam, or trusted on a board with mainline's kernel (arm64)")
	flag.IntVar(&o.rounds, "rounds", 21, "runs of each, the median of which counts")
	flag.BoolVar(&o.counted, "instructions", false, "measure in instructions, 1 ns each, instead of emulated time")
	flag.StringVar(&o.against, "against", "", "another `PROGRAM` of imxcrypt's to measure in the same rounds")
	flag.BoolVar(&o.times, "times", true, "measure the time to mount, memory and size")
	flag.BoolVar(&o.ciphers, "ciphers", false, "compare the ciphers of all sources instead, in instructions (arm64)")
	flag.BoolVar(&o.protected, "protected", false, "measure protected keys instead, likewise (fetches and builds Linux 7.x, once)")
	flag.BoolVar(&o.sectors, "sectors", true, "compare sector sizes, too")
	flag.Parse()
	if o.source != sourceCAAM && o.source != sourceTrusted {
		fmt.Fprintf(os.Stderr, "bench: unknown source %q (caam, trusted)\n", o.source)
		os.Exit(2)
	}
	if o.ciphers || o.protected {
		o.source, o.counted, o.times = sourceTrusted, true, false
	}
	// This compares sectors with jobs of the CAAM.
	o.sectors = o.sectors && o.source == sourceCAAM
	os.Exit(vm.Main("bench", func(t vm.TB) { (&host{t}).run(o) }))
}

func (h *host) run(o options) {
	binary := vm.BuildProgram(h, "./cmd/imxcrypt", string(o.arch))
	m := h.machine(o, binary)
	if o.times {
		h.times(m, o, binary)
	}
	if o.sectors {
		h.sectorSizes(m, o)
	}
	if o.ciphers {
		h.ciphers(m, o)
	}
	if o.protected {
		h.protected(m)
	}
}

// times measures from the start of a process until the volumes are mounted.
func (h *host) times(m *vm.Machine, o options, binary string) {
	list := provision(h, m, o.volumes())
	closeAll(m)

	runs := runsOf(list, o.against != "")
	h.measure(m, runs, o.rounds)
	unit := "medians (least to most)"
	if o.counted {
		unit = "in instructions, 1 ns each, " + unit
	}
	fmt.Printf("%s, source %s, %d runs of each in turn, %s:\n", o.arch, o.source, o.rounds, unit)
	for _, r := range runs {
		fmt.Println("  " + r.String())
	}
	fmt.Println("ratios, medians of the rounds':")
	for _, r := range ratios(runs, o) {
		fmt.Println("  " + r)
	}
	fmt.Println("one volume (imxcrypt boot -v), medians:")
	for _, line := range h.breakdown(m, list[0].name, o.rounds) {
		fmt.Println("  " + line)
	}
	h.size(o.arch, binary, runs)
}

// machine boots the virtual board with everything that is measured.
func (h *host) machine(o options, binary string) *vm.Machine {
	files := map[string]vm.File{
		"/etc/imxcrypt/imxcrypt.yaml": {Data: []byte(configuration(o.volumes(), o.source))},
		"/usr/bin/recipe":             {Host: map[string]string{sourceCAAM: "test/bench/guest/recipe", sourceTrusted: "test/bench/guest/recipe-trusted"}[o.source], Mode: 0o755},
		"/usr/bin/hello":              {Host: vm.BuildProgram(h, "./test/bench/hello", string(o.arch))},
	}
	for _, name := range []string{"import", "floor", "stopwatch"} {
		files["/usr/bin/"+name] = vm.File{Host: h.compile(o.arch, name)}
	}
	if o.against != "" {
		files["/usr/bin/other"] = vm.File{Host: o.against}
	}
	c := vm.Config{Arch: o.arch, CPUs: 2, Timeout: 10 * time.Minute, Imxcrypt: binary, ExtraFiles: files}
	if o.protected {
		c.Mainline = &vm.Mainline{Keys: vm.CAAM, Kernel: vm.Linux7Protected}
	} else if o.source == sourceTrusted {
		c.Mainline = &vm.Mainline{Keys: vm.CAAM, Keygen: o.ciphers}
	} else {
		c.SimCAAM = &vm.SimCAAM{Closed: true}
	}
	if o.counted {
		c.CPUs, c.QEMUArgs = 1, []string{"-icount", "shift=0,sleep=off"}
	}
	for range o.volumes() {
		c.Disks = append(c.Disks, vm.NewDisk(h, diskSize))
	}
	return vm.Start(h, c)
}
