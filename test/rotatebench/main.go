// SPDX-License-Identifier: Apache-2.0

// Rotatebench measures, in one run of a virtual machine, how fast a volume gets
// a new key, beside `cryptsetup reencrypt` and beside the limit: reading one
// mapping and writing the other, with no protection. And what programs wait that
// use the volume meanwhile.
//
// All of them use aes-xts-plain64 with a key of 512 bits and sectors of 4096 bytes,
// which cryptsetup cannot do with black keys: what is compared is the way of
// moving the data, at the same cost of the cipher. Rates are slopes between two
// sizes, so that starting does not count. Emulated time is no board's time, and
// the host has other work: what counts are ratios of what was measured in turn.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"imxcrypt/test/vm"
)

const mib = 1 << 20

type options struct {
	arch         vm.Arch
	rounds       int
	small, large int64 // MiB
	counted      bool
}

func main() {
	var o options
	flag.StringVar((*string)(&o.arch), "arch", "amd64", "amd64 or arm64")
	flag.IntVar(&o.rounds, "rounds", 3, "runs of each, the median of which counts")
	flag.Int64Var(&o.small, "small", 64, "the smaller size, in MiB")
	flag.Int64Var(&o.large, "large", 192, "the larger size, in MiB")
	flag.BoolVar(&o.counted, "instructions", false, "measure in instructions, 1 ns each, instead of emulated time")
	flag.Parse()
	os.Exit(vm.Main("bench-rotate", func(t vm.TB) { run(t, o) }))
}

func run(t vm.TB, o options) {
	b := &bench{TB: t, o: o}
	b.start()
	b.rates()
	b.latencies()
}

// bench is one machine with four disks: a volume of ours and a LUKS2 volume of
// cryptsetup's, of each size.
type bench struct {
	vm.TB
	*vm.Machine
	o options
}

// room is what a disk has beyond the data: headers and gaps.
const room = 20

func (b *bench) start() {
	c := vm.Config{Arch: b.o.arch, Memory: 768, CPUs: 2, Imxcrypt: vm.BuildProgram(b, "./cmd/imxcrypt", string(b.o.arch)), Timeout: 20 * time.Minute}
	if b.o.counted {
		c.CPUs, c.QEMUArgs = 1, []string{"-icount", "shift=0,sleep=off"}
	}
	for _, size := range []int64{b.o.small, b.o.large, b.o.small, b.o.large} {
		d := vm.NewDisk(b, (size+room)*mib)
		// Not sparse, so that the first run finds what the others find.
		if err := os.WriteFile(d.Path, make([]byte, d.Size), 0o600); err != nil {
			b.Fatalf("%v", err)
		}
		c.Disks = append(c.Disks, d)
	}
	b.Machine = vm.Start(b, c)
	b.PutFile("/opt/rotateguest", vm.BuildProgram(b, "./test/rotatebench/rotateguest", string(b.o.arch)))
	b.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(configuration))
	b.Put("/opt/key", []byte("a passphrase of no importance"))
	b.MustSh("mkdir -p /small /large; imxcrypt provision small large; imxcrypt lock small large")
	for _, device := range []string{"/dev/vdc", "/dev/vdd"} {
		b.MustSh("cryptsetup luksFormat -q --type luks2 --cipher aes-xts-plain64 --key-size 512 --sector-size 4096 " +
			"--pbkdf pbkdf2 --pbkdf-force-iterations 1000 " + device + " /opt/key")
	}
}

const configuration = `allow_insecure: true
volumes:
  - {name: small, device: /dev/vda, source: dev, mount: {path: /small}}
  - {name: large, device: /dev/vdb, source: dev, mount: {path: /large}}
`

// way is one way to move the data; large tells which of the sizes.
type way struct {
	name string
	run  func(large bool) time.Duration
	// times of each round, and the slopes: seconds for the difference of sizes.
	slopes []float64
}

func (b *bench) rates() {
	of := func(large bool, small, other string) string {
		if large {
			return other
		}
		return small
	}
	took := func(argv ...string) time.Duration {
		r := b.Run(argv...)
		if r.Code != 0 {
			b.Fatalf("%s: %v", strings.Join(argv, " "), r)
		}
		return r.Duration
	}
	reencrypt := func(resilience string) func(bool) time.Duration {
		return func(large bool) time.Duration {
			return took("cryptsetup", "reencrypt", "-q", "--resilience", resilience, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
				"--key-file", "/opt/key", of(large, "/dev/vdc", "/dev/vdd"))
		}
	}
	ways := []*way{
		{name: "imxcrypt rotate", run: func(large bool) time.Duration {
			return took("imxcrypt", "rotate", "--json", of(large, "small", "large"))
		}},
		{name: "cryptsetup, journal", run: reencrypt("journal")},
		{name: "cryptsetup, checksum", run: reencrypt("checksum")},
		{name: "cryptsetup, none", run: reencrypt("none")},
		{name: "the limit", run: func(large bool) time.Duration {
			device, size := of(large, "/dev/vda", "/dev/vdb"), b.o.small
			if large {
				size = b.o.large
			}
			return b.limit(device, size)
		}},
	}
	for round := range b.o.rounds {
		for _, w := range ways {
			small, large := w.run(false), w.run(true)
			w.slopes = append(w.slopes, (large - small).Seconds())
			fmt.Fprintf(os.Stderr, "round %d, %s: %.2f s and %.2f s\n", round+1, w.name, small.Seconds(), large.Seconds())
		}
	}
	fmt.Printf("%s, rate as slope between %d and %d MiB, aes-xts-plain64, sectors of 4096 bytes, medians of %d rounds:\n", b.o.arch, b.o.small, b.o.large, b.o.rounds)
	ours := middle(ways[0].slopes)
	for _, w := range ways {
		fmt.Printf("  %-22s %6.1f MiB/s", w.name, float64(b.o.large-b.o.small)/middle(w.slopes))
		if w != ways[0] {
			fmt.Printf("   imxcrypt rotate has %.2f times that", middle(w.slopes)/ours)
		}
		fmt.Println()
	}
}

// limit copies between two mappings of one disk, over the place of the data and
// a mebibyte before it. It is run after the rotation, whose data it overwrites
// with what is not read again but by the next rotation.
func (b *bench) limit(device string, size int64) time.Duration {
	const table = "echo 0 %d crypt aes-xts-plain64 %064d%064d 0 %s %d 1 sector_size:4096 | dmsetup create %s\n"
	sectors := size * mib / 512
	b.MustSh(fmt.Sprintf(table+table, sectors, 1, 2, device, 6144, "from", sectors, 3, 4, device, 4096, "to"))
	r := b.Run("/opt/rotateguest", "copy", "/dev/mapper/from", "/dev/mapper/to", fmt.Sprint(size*mib))
	if r.Code != 0 {
		b.Fatalf("the limit: %v", r)
	}
	b.MustSh("dmsetup remove from to")
	return r.Duration
}

func middle(list []float64) float64 {
	list = slices.Clone(list)
	slices.Sort(list)
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}

// latencies are what a program waits, with and without a rotation below it.
func (b *bench) latencies() {
	type waits struct {
		N                int
		Median, P99, Max float64
	}
	measure := func() (out map[string]waits) {
		r := b.Run("/opt/rotateguest", "wait", "/large", "15")
		if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil || r.Code != 0 {
			b.Fatalf("waits: %v %v", err, r)
		}
		return out
	}
	// The limit has written over the data: a new filesystem.
	b.MustSh("imxcrypt erase --yes large; imxcrypt provision --wipe --yes large")
	without := measure()
	p := b.Start("imxcrypt", "rotate", "--json", "large")
	p.WaitFor(`"event":"progress"`, time.Minute)
	during := measure()
	running := p.Running()
	memory := b.Sh("grep VmHWM /proc/$(pidof imxcrypt)/status").Stdout
	p.Wait()
	fmt.Printf("waits of a program in ms, without a rotation and with one:\n")
	for _, kind := range []string{"read", "write", "fsync"} {
		a, d := without[kind], during[kind]
		fmt.Printf("  %-6s median %5.1f and %5.1f   p99 %6.1f and %6.1f   longest %6.1f and %6.1f   (%d and %d requests)\n",
			kind, a.Median, d.Median, a.P99, d.P99, a.Max, d.Max, a.N, d.N)
	}
	if !running {
		fmt.Println("  (the rotation ended before the measurement)")
	}
	fmt.Printf("memory of the rotation: %s", memory)
}
