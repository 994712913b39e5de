// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// soak makes the long tests run in full; the environment sets it.
var soak = os.Getenv("IMXCRYPT_SOAK") != ""

// crashLimits keep a run to seconds; a soak tries far more of the same.
func crashLimits() crashtest.Options {
	if soak {
		return crashtest.Options{Exhaustive: 10, Limit: 200, Random: 64, Seed: 3}
	}
	if slow() {
		return crashtest.Options{Exhaustive: 2, Limit: 1, Random: -1, Seed: 3}
	}
	return crashtest.Options{Exhaustive: 4, Limit: 4, Random: 4, Seed: 3}
}

// few returns o, or a small part of it if the tests are slow.
func few(o crashtest.Options) crashtest.Options {
	if slow() {
		return crashtest.Options{Exhaustive: 2, Limit: 2, Random: -1, Seed: o.Seed}
	}
	return o
}

// sparse returns o or, in the inner loop, o for one epoch in n.
func sparse(o crashtest.Options, n int) crashtest.Options {
	if testing.Short() {
		o.Epochs = func(epoch int) bool { return epoch%n == 0 }
	}
	return o
}

// sampled returns all cases or, if the tests are slow, one in n of them, and logs how
// many. seed, a name, varies which.
func sampled[V any](t *testing.T, seed string, all map[string]V, n int) map[string]V {
	t.Helper()
	if !slow() {
		return all
	}
	some := map[string]V{}
	for i, name := range slices.Sorted(maps.Keys(all)) {
		if (i+len(seed))%n == 0 {
			some[name] = all[name]
		}
	}
	t.Logf("%s: a slice of the cases, %d of %d", seed, len(some), len(all))
	return some
}

// secondCut returns n: one state in n is cut a second time, while the next run finishes
// what the first left.
func secondCut() int {
	switch {
	case soak:
		return 16
	case slow():
		return 601
	}
	return 61
}

// crashCase is one way to provision.
type crashCase struct {
	spec    func(*spec.Volume)
	fill    byte
	size    int64                  // in bytes; 16 MiB
	content func(*crashtest.Image) // what is on the device beforehand
	wipe    bool
}

func crashCases() map[string]crashCase {
	none := func(s *spec.Volume) {
		s.Filesystem = spec.Filesystem{Type: spec.FilesystemNone}
		s.Mount.Path = ""
	}
	detached := func(s *spec.Volume) { s.Header = "/var/lib/imxcrypt/data.luks" }
	dev := func(s *spec.Volume) {
		s.Source, s.Wrap, s.Cipher, s.KeySize, s.AllowInsecure = spec.SourceDev, "", "aes-xts-plain64", 64, true
	}
	cases := map[string]crashCase{
		"zeros, ccm":              {},
		"0xFF, ccm":               {fill: 0xff},
		"zeros, ecb":              {spec: func(s *spec.Volume) { s.Wrap = "ecb" }},
		"0xFF, ecb, no fs":        {fill: 0xff, spec: func(s *spec.Volume) { none(s); s.Wrap = "ecb" }},
		"zeros, ccm, no fs":       {spec: none},
		"sectors of 512":          {spec: func(s *spec.Volume) { s.SectorSize = 512 }},
		"dev source":              {spec: dev},
		"dev source, detached":    {spec: func(s *spec.Volume) { dev(s); detached(s) }},
		"protected":               {spec: func(s *spec.Volume) { *s = protectedFrom(*s) }},
		"detached, zeros":         {spec: detached},
		"detached, 0xFF":          {spec: detached, fill: 0xff},
		"pinned uuid, dev source": {spec: func(s *spec.Volume) { dev(s); s.UUID = "9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b" }},
		"wipe noise":              {wipe: true, size: lifeDisk, content: noise},
		"wipe foreign LUKS2":      {wipe: true, size: lifeDisk, content: foreignLUKS2},
		"wipe foreign ext4":       {wipe: true, size: lifeDisk, content: plainExt4},
		"wipe noise, detached":    {wipe: true, size: lifeDisk, content: noise, spec: detached},
	}
	for name, c := range cases {
		if c.size == 0 {
			c.size = 16 * mib
			cases[name] = c
		}
	}
	return cases
}

// No matter where the power is cut while a volume is provisioned and first used, running
// the same command again ends with a volume that opens, with the data that was flushed;
// and a volume that was ready is never formatted.
func TestEveryPowerCutOfProvisioning(t *testing.T) {
	t.Parallel()
	var cuts cutCount
	for name, c := range sampled(t, t.Name(), crashCases(), 3) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, m := c.enumerate(t)
			cuts.count(t, n, m)
		})
	}
	cuts.logWhenDone(t)
}

// recording is a board whose disk and files are recorded.
type recording struct {
	rec         *crashtest.Recorder
	disk, files *crashtest.Disk
	board       *volumetest.Board
}

func record(chip *caamtest.Chip, disk, files *crashtest.Image) *recording {
	rec, d := crashtest.Record(disk)
	r := &recording{rec: rec, disk: d, files: rec.Disk("files", files)}
	r.board = boardOver(chip, r.disk, r.files)
	return r
}

func boardOver(chip *caamtest.Chip, disk volumetest.Store, files crashtest.Store) *volumetest.Board {
	b := volumetest.New(chip, volumetest.NewFiles(files), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: disk})
	b.Directories = []string{"/data"}
	return b
}

// epoch returns the number of flushes so far: what came before is there in all states
// from that epoch on.
func (r *recording) epoch() int {
	n := 0
	for _, op := range r.rec.Log() {
		if op.Kind == crashtest.Flush {
			n++
		}
	}
	return n
}

func (c crashCase) enumerate(t *testing.T) (first, second int) {
	s := newSpec()
	if c.spec != nil {
		c.spec(&s)
	}
	image := crashtest.NewFilledImage(c.size, c.fill)
	if c.content != nil {
		c.content(image)
	}
	chip := caamtest.RandomChip()
	run := record(chip, image, crashtest.NewImage(volumetest.FilesSize))
	ready := -1
	_, err := run.board.Manager().Provision(context.Background(), s, volume.ProvisionOptions{Wipe: c.wipe, Progress: func(st volume.Step) {
		if st.What == "marked ready" {
			ready = run.epoch()
		}
	}})
	if err != nil || ready < 0 {
		t.Fatal(err)
	}
	put(t, run.board, userText)
	used := run.epoch()
	states := run.rec.States(crashLimits())
	rng := rand.New(rand.NewPCG(11, uint64(len(t.Name()))))
	for state := range states {
		first++
		again := rng.IntN(secondCut()) == 0
		next := record(chip, state.Image(run.disk), state.Image(run.files))
		c.resume(t, s, next, state.String(), state.Epoch >= ready, state.Epoch >= used)
		if !again {
			continue
		}
		log := next.rec.States(crashtest.Options{Exhaustive: 3, Limit: 2, Random: 2, Seed: uint64(first)})
		for cut := range log {
			second++
			third := record(chip, cut.Image(next.disk), cut.Image(next.files))
			c.resume(t, s, third, state.String()+"; then "+cut.String(), state.Epoch >= ready, state.Epoch >= used)
		}
	}
	return first, second
}

// resume is the next run, after the power cycle.
func (c crashCase) resume(t *testing.T, s spec.Volume, r *recording, what string, ready, used bool) {
	t.Helper()
	r.board.Chip.PowerCycle()
	ctx := context.Background()
	// What the header says counts, even if the run did not get to know it.
	ready = ready || r.board.Manager().Status(ctx, s).Phase == header.PhaseReady
	_, err := r.board.Manager().Provision(ctx, s, volume.ProvisionOptions{Wipe: c.wipe})
	if err != nil {
		t.Fatalf("%s: lost: %v (code %s)", what, err, fault.CodeOf(err))
	}
	if ready && len(r.board.Made()) > 0 {
		t.Fatalf("%s: a volume that was ready was formatted: %v", what, r.board.Made())
	}
	if used {
		if got := get(t, r.board, len(userText)); got != userText {
			t.Fatalf("%s: data lost: %q", what, got)
		}
	}
	if r.board.Ring.Left() != 0 {
		t.Fatalf("%s: a key was left in a keyring", what)
	}
	// And what the next run made durable opens.
	last := boardOver(r.board.Chip, r.disk.Live(), r.files.Live())
	last.Chip.PowerCycle()
	if _, err := last.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: s.Mount.Path != ""}); err != nil {
		t.Fatalf("%s: does not open any more: %v", what, err)
	}
}

// The power may be cut anywhere in an unlock that repairs a damaged copy of the header.
func TestEveryPowerCutOfARepair(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	states := 0
	for name, damage := range map[string]struct{ at, length int64 }{
		"first copy": {0x1200, 64}, "second copy": {0x5200, 64}, "first magic number": {0, 64}, "second magic number": {0x4000, 64},
		"all of the first copy": {0, 0x4000}, "all of the second copy": {0x4000, 0x4000},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpec()
			disk := crashtest.NewImage(16 * mib)
			b := newBoard(disk)
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			put(t, b, userText)
			damaged := disk.Overlay()
			if damage.length > 64 {
				write(damaged, make([]byte, damage.length), damage.at)
			} else {
				scribble(t, damaged, damage.at)
			}
			b.Chip.PowerCycle()
			run := record(b.Chip, damaged, crashtest.NewImage(volumetest.FilesSize))
			r, err = run.board.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			if !slices.ContainsFunc(r.Steps, func(st volume.Step) bool { return st.What == "damaged header copy repaired" }) {
				t.Fatalf("not repaired: %v", r.Steps)
			}
			for state := range run.rec.States(few(crashtest.Options{Limit: 64, Random: 16})) {
				states++
				next := boardOver(b.Chip, state.Image(run.disk), state.Image(run.files))
				next.Chip.PowerCycle()
				if _, err := next.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true}); err != nil {
					t.Fatalf("%v: %v", state, err)
				}
				if got := get(t, next, len(userText)); got != userText {
					t.Fatalf("%v: data lost: %q", state, got)
				}
			}
			// Repaired means that the other copy may now be lost.
			repaired := run.disk.Live()
			scribble(t, repaired, map[bool]int64{true: 0x5200, false: 0x1200}[damage.at < 0x4000])
			next := boardOver(b.Chip, repaired, run.files.Live())
			r, err = next.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			must(t, r, err)
		})
	}
	t.Logf("repairing: %d states tried, 0 lost", states)
}

// scribble damages one sector.
func scribble(t *testing.T, im volumetest.Store, at int64) {
	t.Helper()
	if _, err := im.WriteAt(bytes.Repeat([]byte{0x5a}, 64), at); err != nil {
		t.Fatal(err)
	}
}
