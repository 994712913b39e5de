// SPDX-License-Identifier: Apache-2.0

// Rotatebench measures, in one run of a virtual machine, how fast a volume gets a new
// key. It compares this with `cryptsetup reencrypt` and with the limit: reading one
// mapping and writing the other, without protection, in pieces of the fastest size. It
// also measures how fast a plaintext filesystem becomes a volume, compared with
// `cryptsetup reencrypt --encrypt`. Then it measures whether time and memory grow with
// the volume, and how long programs that use the volume wait meanwhile.
//
// All of them use aes-xts-plain64 with a key of 512 bits and sectors of 4096 bytes,
// which cryptsetup cannot do with black keys. This compares the methods of moving the
// data, at the same cost of the cipher. Rates are slopes between two sizes, so that the
// start-up time does not count. Emulated time is not a board's time, and the host has
// other work, so what counts are ratios between measurements taken in turn.
//
// With -instructions, time is the work of the guest's one processor, an instruction in
// 4 ns, and the same however busy the host is. The disks are then in the guest's
// memory, because counted time skips waits for real ones, and a flush takes them 4 ms.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"imxcrypt/test/vm"
)

const mib = 1 << 20

type options struct {
	arch    vm.Arch
	rounds  int
	sizes   sizes // of the slopes: the smaller and the larger one
	linear  sizes // measured once, in addition
	seconds int   // duration of each measurement of waits
	counted bool  // time is instructions
}

// sizes are in MiB.
type sizes []int64

func (s *sizes) String() string { return strings.Trim(fmt.Sprint([]int64(*s)), "[]") }

func (s *sizes) Set(text string) error {
	*s = nil
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseInt(part, 10, 32)
		if err != nil || n < 16 {
			return fmt.Errorf("%q is not a size of at least 16 MiB", part)
		}
		*s = append(*s, n)
	}
	return nil
}

func main() {
	o := options{sizes: sizes{64, 192}, linear: sizes{512, 1024}}
	flag.StringVar((*string)(&o.arch), "arch", "amd64", "amd64 or arm64")
	flag.IntVar(&o.rounds, "rounds", 3, "runs of each, the median of which counts")
	flag.Var(&o.sizes, "sizes", "the two sizes in MiB between which the rate is measured")
	flag.Var(&o.linear, "linear", "further sizes in MiB, measured once; may be empty")
	flag.IntVar(&o.seconds, "seconds", 30, "how long a program's waits are measured")
	flag.BoolVar(&o.counted, "instructions", false, "measure in instructions, 4 ns each, instead of emulated time")
	flag.Parse()
	if len(o.sizes) != 2 || o.sizes[0] >= o.sizes[1] {
		fmt.Fprintln(os.Stderr, "rotatebench: -sizes must be two, the smaller one first")
		os.Exit(2)
	}
	os.Exit(vm.Main("bench-rotate", func(t vm.TB) { run(t, o) }))
}

func run(t vm.TB, o options) {
	b := &bench{TB: t, o: o, begun: time.Now(), memory: map[string]int64{}}
	b.start()
	before := b.sums()
	b.rates()
	if after := b.sums(); after != before {
		b.Fatalf("the volumes' content is not what it was before so many rotations: %s, and was %s", after, before)
	}
	b.linearity()
	b.latencies()
	b.note("done")
}

// bench is one machine with a disk for each volume: ours with the default gap, with a
// wider gap, and without a gap with a small and a large journal; cryptsetup's; ours in
// the additional sizes; and the volumes encrypted in place, by us and by cryptsetup.
// Except for the additional ones, each has both sizes of the slope.
type bench struct {
	vm.TB
	*vm.Machine
	o     options
	begun time.Time

	gap, wide, journal, roomy, cryptsetup [2]volume
	plain, theirs                         [2]volume
	further                               []volume
	// measured holds the seconds of ours with a gap, for each size and round.
	measured [2][]float64
	memory   map[string]int64 // KiB: the peak of a rotation, by volume
}

// volume is the volume on one disk.
type volume struct {
	name   string // the name of one of ours
	device string
	size   int64 // of the data, in MiB
}

// room is the size of headers and gaps on a disk, in addition to the data. plainRoom is
// the space after a plaintext filesystem, and reduced is how much of it cryptsetup
// takes.
const (
	room      = 20
	plainRoom = 64
	reduced   = 32
)

// note reports the progress of the run on stderr.
func (b *bench) note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}

func (b *bench) start() {
	c := vm.Config{Arch: b.o.arch, Memory: 768, CPUs: 2, Imxcrypt: vm.BuildProgram(b, "./cmd/imxcrypt", string(b.o.arch)), Timeout: 30 * time.Minute}
	var names, directories, memoryDisks []string
	configuration := "allow_insecure: true\nvolumes:\n"
	disks, largest := 0, int64(0)
	add := func(kind, extra string, size int64) volume {
		v := volume{name: fmt.Sprintf("%s%d", kind, size), size: size}
		room := int64(room)
		switch kind {
		case "plain":
			room = plainRoom
		case "theirs":
			room = reduced
		}
		if b.o.counted {
			v.device = fmt.Sprintf("/dev/mapper/disk%d", disks)
			ram := fmt.Sprintf("/dev/ram%d", disks)
			memoryDisks = append(memoryDisks, fmt.Sprintf("echo 0 %d delay %s 0 0 %[2]s 0 0 %[2]s 0 4 | dmsetup create disk%d; dd if=/dev/zero of=%[2]s bs=1M count=%d oflag=direct",
				(size+room)*mib/512, ram, disks, size+room))
			c.Memory += int(size + room)
			largest = max(largest, size+room)
		} else {
			v.device = "/dev/vd" + string(rune('a'+disks))
			c.Disks = append(c.Disks, b.disk(size+room, kind != "further"))
		}
		disks++
		if kind != "cryptsetup" && kind != "theirs" {
			if kind != "plain" {
				names = append(names, v.name)
			}
			configuration += fmt.Sprintf("  - {name: %s, device: %s, source: dev, mount: {path: /%s}%s}\n", v.name, v.device, v.name, extra)
		}
		return v
	}
	for i, size := range b.o.sizes {
		b.gap[i] = add("gap", "", size)
		b.wide[i] = add("wide", ", gap: 16MiB", size)
		b.journal[i] = add("journal", ", gap: 0MiB, header_size: 4MiB", size) // the size in a detached header
		b.roomy[i] = add("roomy", ", gap: 0MiB, header_size: 16MiB", size)
		b.cryptsetup[i] = add("cryptsetup", "", size)
		b.plain[i] = add("plain", "", size)
		directories = append(directories, "/"+b.plain[i].name)
		b.theirs[i] = add("theirs", "", size)
	}
	for _, size := range b.o.linear {
		b.further = append(b.further, add("further", "", size))
	}
	// Encrypting in place needs a state_dir that survives a power cut.
	state := "/dev/vd" + string(rune('a'+len(c.Disks)))
	c.Disks = append(c.Disks, b.disk(32, false))
	if b.o.counted {
		c.CPUs, c.QEMUArgs = 1, []string{"-icount", "shift=2,sleep=off"}
	}
	b.Machine = vm.Start(b, c)
	if b.o.counted {
		b.MustSh(fmt.Sprintf("modprobe brd rd_nr=%d rd_size=%d; modprobe dm-delay", disks, largest<<10))
		b.MustSh(strings.Join(memoryDisks, "\n"))
	}
	b.PutFile("/opt/rotateguest", vm.BuildProgram(b, "./test/rotatebench/rotateguest", string(b.o.arch)))
	b.MustSh("mkfs.ext4 -q " + state + " && mkdir -p /var/lib/imxcrypt && mount " + state + " /var/lib/imxcrypt")
	b.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(configuration))
	b.Put("/opt/key", []byte("a passphrase of no importance"))
	all := strings.Join(names, " ")
	b.MustSh("mkdir -p " + strings.Join(directories, " ") + "; for v in " + all + "; do mkdir -p /$v; done; imxcrypt provision " + all + "; imxcrypt lock " + all)
	for _, v := range b.cryptsetup {
		b.MustSh("cryptsetup luksFormat -q --type luks2 --cipher aes-xts-plain64 --key-size 512 --sector-size 4096 " +
			"--pbkdf pbkdf2 --pbkdf-force-iterations 1000 " + v.device + " /opt/key")
	}
}

// disk makes a disk of that many MiB. A disk that is full from the beginning is not
// sparse, so that its first run finds the same conditions as the others.
func (b *bench) disk(size int64, full bool) *vm.Disk {
	d := vm.NewDisk(b, size*mib)
	if full {
		if err := os.WriteFile(d.Path, make([]byte, d.Size), 0o600); err != nil {
			b.Fatalf("%v", err)
		}
	}
	return d
}

// took runs a command and returns its duration and its peak memory use in KiB.
func (b *bench) took(argv ...string) (time.Duration, int64) {
	r := b.Run(append([]string{"/opt/rotateguest", "run"}, argv...)...)
	var out struct {
		Seconds float64
		KiB     int64
	}
	if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil || r.Code != 0 {
		b.Fatalf("%s: %v %v", strings.Join(argv, " "), err, r)
	}
	return time.Duration(out.Seconds * float64(time.Second)), out.KiB
}

// rotate gives a volume of ours a new key.
func (b *bench) rotate(v volume) time.Duration {
	took, kib := b.took("imxcrypt", "rotate", "--json", v.name)
	b.memory[v.name] = max(b.memory[v.name], kib)
	return took
}

// encrypt makes a plaintext filesystem a volume of ours.
func (b *bench) encrypt(v volume) time.Duration {
	b.makePlain(v)
	b.MustSh("rm -f /var/lib/imxcrypt/volumes/" + v.name + ".json")
	took, _ := b.took("imxcrypt", "encrypt", "--no-mount", "--json", v.name)
	return took
}

// encryptTheirs makes it a volume of cryptsetup's.
func (b *bench) encryptTheirs(v volume) time.Duration {
	b.makePlain(v)
	took, _ := b.took("cryptsetup", "reencrypt", "--encrypt", "-q", "--type", "luks2", "--reduce-device-size", fmt.Sprintf("%dM", reduced),
		"--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "4096",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "/opt/key", v.device)
	return took
}

// makePlain puts a filesystem of the volume's size on its device, and nothing else.
func (b *bench) makePlain(v volume) {
	b.MustSh(fmt.Sprintf("dd if=/dev/zero of=%s bs=1M count=1 conv=fsync 2>/dev/null; mkfs.ext4 -q -F -b 4096 %[1]s %dM", v.device, v.size))
}

// sums returns the digests of the contents of our smaller volumes.
func (b *bench) sums() string {
	var all []string
	for _, v := range []volume{b.gap[0], b.journal[0]} {
		b.MustSh("imxcrypt unlock " + v.name)
		sum, _, _ := strings.Cut(b.MustSh("md5sum /dev/mapper/"+v.name), " ")
		b.MustSh("imxcrypt lock " + v.name)
		all = append(all, sum)
	}
	return strings.Join(all, " ")
}

// latencies measures how long a program waits, with and without a rotation below it.
func (b *bench) latencies() {
	type waits struct {
		N                int
		Median, P99, Max float64
		Over             int // requests over 200 ms
	}
	v := b.gap[1]
	if n := len(b.further); n > 0 {
		v = b.further[n-1]
	}
	measure := func() (out map[string]waits) {
		r := b.Run("/opt/rotateguest", "wait", "/"+v.name, fmt.Sprint(b.o.seconds))
		if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil || r.Code != 0 {
			b.Fatalf("waits: %v %v", err, r)
		}
		return out
	}
	b.MustSh("imxcrypt unlock --mount " + v.name)
	without := measure()
	beside := func() map[string]waits {
		// One rotation after the other: a single one may end before the measurement.
		p := b.Start("sh", "-c", "rm -f /run/enough; until test -e /run/enough; do imxcrypt rotate --json "+v.name+" || break; done")
		p.WaitFor(`"event":"progress"`, time.Minute)
		during := measure()
		if !p.Running() {
			b.Fatalf("the rotation ended before the measurement: %v", p.Wait())
		}
		b.MustSh("touch /run/enough; imxcrypt rotate --pause " + v.name)
		p.Wait()
		return during
	}
	report := func(kernel string, target float64, during map[string]waits) {
		fmt.Printf("waits of a program in ms, without a rotation of its volume and with one, %s dm-delay:\n", kernel)
		for _, kind := range []string{"read", "write", "fsync"} {
			a, d := without[kind], during[kind]
			fmt.Printf("  %-6s median %5.1f and %5.1f   p99 %6.1f and %6.1f   longest %6.1f and %6.1f   over 200 ms %d and %d   of %d and %d requests\n",
				kind, a.Median, d.Median, a.P99, d.P99, a.Max, d.Max, a.Over, d.Over, a.N, d.N)
		}
		fmt.Printf("  fsync, p99 %.1f  (target at most %.0f)\n", during["fsync"].P99, target)
	}
	report("with", 20, beside())
	if b.o.counted {
		return // its disks use dm-delay
	}
	b.MustSh("rmmod dm-delay && rm $(find /lib/modules/ -name 'dm-delay.ko*') && depmod; ! modprobe -q dm-delay")
	report("without", 60, beside())
}
