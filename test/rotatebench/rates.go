// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// way is one way to move the data of the smaller or the larger volume.
type way struct {
	name string
	run  func(which int) time.Duration
	took [2][]float64 // seconds, of each round
}

// slope returns the seconds for the difference of the sizes, from the medians.
func (w *way) slope() float64 { return middle(w.took[1]) - middle(w.took[0]) }

func (b *bench) rates() {
	chunk := b.bestChunk()
	cryptsetup := func(resilience string) func(int) time.Duration {
		return func(which int) time.Duration {
			took, _ := b.took("cryptsetup", "reencrypt", "-q", "--resilience", resilience, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
				"--key-file", "/opt/key", b.cryptsetup[which].device)
			return took
		}
	}
	of := func(volumes [2]volume) func(int) time.Duration {
		return func(which int) time.Duration { return b.rotate(volumes[which]) }
	}
	limit := func(plain bool) func(int) time.Duration {
		return func(which int) time.Duration { return b.limit(b.cryptsetup[which], chunk, plain) }
	}
	ours := &way{name: "imxcrypt rotate", run: of(b.gap)}
	limitWay := &way{name: "the limit", run: limit(false)}
	journal := &way{name: "cryptsetup, journal", run: cryptsetup("journal")}
	checksum := &way{name: "cryptsetup, checksum", run: cryptsetup("checksum")}
	unlocked := &way{name: "imxcrypt rotate, unlocked", run: func(which int) time.Duration {
		name := b.gap[which].name
		b.MustSh("imxcrypt unlock " + name)
		defer b.MustSh("imxcrypt lock " + name)
		return b.rotate(b.gap[which])
	}}
	wide := &way{name: "imxcrypt rotate, gap 16MiB", run: of(b.wide)}
	noGap := &way{name: "imxcrypt rotate, no gap", run: of(b.journal)}
	roomy := &way{name: "imxcrypt rotate, no gap, header 16MiB", run: of(b.roomy)}
	encrypt := &way{name: "imxcrypt encrypt", run: func(which int) time.Duration { return b.encrypt(b.plain[which]) }}
	limitOfEncrypting := &way{name: "the limit of encrypting", run: limit(true)}
	theirs := &way{name: "cryptsetup --encrypt", run: func(which int) time.Duration { return b.encryptTheirs(b.theirs[which]) }}
	ways := []*way{ours, limitWay, journal, checksum, unlocked, wide, noGap, roomy, encrypt, limitOfEncrypting, theirs}
	for round := range b.o.rounds {
		for _, w := range ways {
			for which := range w.took {
				w.took[which] = append(w.took[which], w.run(which).Seconds())
			}
			b.note("round %d, %s: %.2f s and %.2f s", round+1, w.name, w.took[0][round], w.took[1][round])
		}
	}
	small, large := b.o.sizes[0], b.o.sizes[1]
	fmt.Printf("%s, rate as slope between %d and %d MiB, aes-xts-plain64, sectors of 4096 bytes, medians of %d rounds in turn:\n", b.o.arch, small, large, b.o.rounds)
	for _, w := range ways {
		fmt.Printf("  %-38s %6.1f MiB/s\n", w.name, float64(large-small)/w.slope())
	}
	fmt.Println("ratios of these rates:")
	for _, r := range []struct {
		of, to *way
		least  float64 // the target; 0 for none
	}{
		{ours, limitWay, 0.8}, {ours, journal, 1.1}, {ours, checksum, 1.4}, {unlocked, limitWay, 0.8}, {wide, limitWay, 0},
		{noGap, limitWay, 0}, {noGap, journal, 1}, {roomy, journal, 1}, {encrypt, limitOfEncrypting, 0.8}, {encrypt, theirs, 1.5},
	} {
		fmt.Printf("  %-38s / %-24s %5.2f", r.of.name, r.to.name, r.to.slope()/r.of.slope())
		if r.least > 0 {
			fmt.Printf("  (target at least %.1f)", r.least)
		}
		fmt.Println()
	}
	b.measured = ours.took
}

// chunking is how the limit's copy is divided: the number of pieces at a time and their
// size.
type chunking struct{ lanes, kib int64 }

func (c chunking) String() string { return fmt.Sprintf("%d x %d KiB", c.lanes, c.kib) }

// bestChunk returns the fastest way to copy without protection.
func (b *bench) bestChunk() chunking {
	list := []chunking{{1, 1024}, {2, 512}, {2, 1024}, {4, 128}, {4, 256}, {4, 512}}
	took := make([][]float64, len(list))
	for range min(b.o.rounds, 2) {
		for i, c := range list {
			took[i] = append(took[i], b.limit(b.cryptsetup[0], c, false).Seconds())
		}
	}
	best := 0
	var parts []string
	for i, c := range list {
		if middle(took[i]) < middle(took[best]) {
			best = i
		}
		parts = append(parts, fmt.Sprintf("%v: %.2f s", c, middle(took[i])))
	}
	b.note("the limit copies by %v of %s", list[best], strings.Join(parts, ", "))
	return list[best]
}

// limit copies between two mappings of one of cryptsetup's disks, over the location of
// its data and the mebibyte before it, which is not part of the header; or, if plain,
// from the disk itself to a mapping. Only the next run reads what this destroys.
func (b *bench) limit(v volume, c chunking, plain bool) time.Duration {
	const crypt = "echo 0 %d crypt aes-xts-plain64 %064d%064d 0 %s %d 1 sector_size:4096 | dmsetup create %s\n"
	const linear = "echo 0 %d linear %s %d | dmsetup create %s\n"
	const from, to = 18 * mib / 512, 17 * mib / 512
	sectors := v.size * mib / 512
	source := fmt.Sprintf(crypt, sectors, 1, 2, v.device, from, "from")
	if plain {
		source = fmt.Sprintf(linear, sectors, v.device, from, "from")
	}
	b.MustSh(source + fmt.Sprintf(crypt, sectors, 3, 4, v.device, to, "to"))
	took, _ := b.took("/opt/rotateguest", "copy", "/dev/mapper/from", "/dev/mapper/to", fmt.Sprint(v.size*mib), fmt.Sprint(c.lanes), fmt.Sprint(c.kib<<10))
	b.MustSh("dmsetup remove from to")
	return took
}

// linearity prints the time per MiB and the memory use for each size.
func (b *bench) linearity() {
	small, large := middle(b.measured[0]), middle(b.measured[1])
	fixed := small - (large-small)*float64(b.o.sizes[0])/float64(b.o.sizes[1]-b.o.sizes[0])
	fmt.Printf("imxcrypt rotate by the size of the volume, without the %.2f s of its start and end:\n", fixed)
	for i, v := range append(b.gap[:], b.further...) {
		var seconds float64
		if i < len(b.measured) {
			seconds = middle(b.measured[i])
		} else {
			seconds = b.rotate(v).Seconds()
			b.note("%d MiB: %.2f s", v.size, seconds)
		}
		fmt.Printf("  %5d MiB %8.2f s   %6.2f ms a MiB   at most %.1f MiB of memory\n", v.size, seconds, 1000*(seconds-fixed)/float64(v.size), float64(b.memory[v.name])/1024)
	}
}

func middle(list []float64) float64 {
	list = slices.Clone(list)
	slices.Sort(list)
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}
