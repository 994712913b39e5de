// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"imxcrypt/internal/crashtest"
	"imxcrypt/test/replay"
	"imxcrypt/test/vm"
)

// A rotation that is recorded: of a volume that is locked, every byte of which is
// compared, or mounted and written to.
type rotationRecord struct {
	name, config string
	used         bool
	tape         *replay.Tape
	from, to     replay.Place
}

// The volumes are as small as they can be with some zones, and a journal in the
// filesystem of those in use: the less there is to encrypt, the more images can be
// tried. Idle, there are five zones of a quarter MiB; in use, six of half a MiB.
const (
	idleSize = 1536 << 10
	usedSize = 3584 << 10

	gapIdle     = "    header_size: 128KiB\n    gap: 256KiB\n"
	journalIdle = "    header_size: 320KiB\n    gap: 0MiB\n"
	// mkfs makes a journal from 2048 blocks on: with blocks of 4 KiB that would be
	// 8 MiB.
	gapUsed     = "    header_size: 128KiB\n    gap: 512KiB\n    sector_size: 1024\n"
	journalUsed = "    header_size: 580KiB\n    gap: 0MiB\n    sector_size: 1024\n"
)

// What rotations wrote, as the disk saw it: wherever the power could have gone,
// and whatever of the unflushed writes it could have lost or torn, the volume
// opens, all is there, and the rotation goes on to its end.
func TestRotationReplayed(t *testing.T) {
	for _, c := range []struct {
		board
		wrap string
	}{{board{vm.AMD64, "amd64"}, "ecb"}, {board{vm.ARM64, "arm64"}, "ccm"}} {
		if c.goarch != "amd64" && !soak() {
			continue
		}
		t.Run(c.goarch+" "+c.wrap, func(t *testing.T) {
			t.Parallel()
			records := []*rotationRecord{
				{name: "gap, idle", config: gapIdle},
				{name: "journal, idle", config: journalIdle},
				{name: "gap, in use", config: gapUsed, used: true},
			}
			if soak() {
				records = append(records, &rotationRecord{name: "journal, in use", config: journalUsed, used: true})
			}
			var disks []*vm.Disk
			for _, x := range records {
				disk := vm.NewDisk(t, x.size())
				disk.LogWrites = disk.Path + ".log"
				x.tape = replay.Load(t, disk)
				disks = append(disks, disk)
			}
			r := &replayed{rotated: &rotated{board: c.board, t: t, wrap: c.wrap}}
			for n, used := range []bool{false, true} {
				r.bench[n] = vm.NewDisk(t, (&rotationRecord{used: used}).size())
			}
			r.Machine = c.start(t, append(disks, r.bench[:]...)...)
			r.PutFile("/opt/load", vm.BuildProgram(t, "./test/load", c.goarch))
			for n, x := range records {
				r.record(x, fmt.Sprintf("/dev/vd%c", 'a'+n))
				r.judge(x, fmt.Sprintf("/dev/vd%c", 'a'+len(records)+r.benchOf(x)))
			}
			t.Logf("%s: rotations recorded with %d flushes, all tried, %d distinct images opened, checked and rotated to the end, of %d possible; 0 lost",
				c.goarch, r.flushes, r.distinct, r.possible)
		})
	}
}

func (x *rotationRecord) size() int64 {
	if x.used {
		return usedSize
	}
	return idleSize
}

// replayed is a board that records rotations and judges what is left of them.
type replayed struct {
	*rotated
	bench [2]*vm.Disk // for the images of idle volumes, and of those in use

	flushes, distinct, possible int
}

func (r *replayed) benchOf(x *rotationRecord) int {
	if x.used {
		return 1
	}
	return 0
}

func (r *replayed) configure(x *rotationRecord, device string) {
	r.t.Helper()
	r.more, r.device = x.config, device
	r.configureVolume()
}

// record rotates a new volume.
func (r *replayed) record(x *rotationRecord, device string) {
	r.t.Helper()
	r.configure(x, device)
	r.expect(0, "mounted on /data", "provision", "data")
	r.MustSh("dd if=/dev/urandom of=/data/still bs=64k count=4 2>/dev/null; sync; sha256sum /data/still > /run/still")
	if !x.used {
		r.MustSh("dd if=/dev/urandom of=/data/more bs=64k 2>/dev/null; imxcrypt lock data; imxcrypt unlock data; dd if=/dev/mapper/data bs=1M iflag=direct 2>/dev/null | sha256sum > /run/bytes; imxcrypt lock data")
		x.from = x.tape.Now(r.t)
		r.expect(0, "rotated, generation 2", "rotate", "data")
		x.to = x.tape.Now(r.t)
		return
	}
	r.MustSh("mkdir /data/load")
	load := r.Start("/opt/load", "-pause", "50ms", "/data/load")
	x.from = x.tape.Now(r.t)
	r.expect(0, "rotated, generation 2", "rotate", "--max-hold", "10s", "data")
	x.to = x.tape.Now(r.t)
	load.Signal(syscall.SIGTERM)
	if result := load.Wait(); result.Code != 0 {
		r.t.Fatalf("the load failed: %v", result)
	} else {
		r.t.Logf("load: %s", strings.TrimSpace(result.Stdout))
	}
	r.expect(0, "locked", "lock", "data")
}

// checkIdle opens what a power cut left, compares every byte of the volume, and
// finishes the rotation, unlocked or not.
const checkIdle = `set -e
echo 1 > /sys/module/imxcrypt_simcaam/parameters/jdkek_reset
read want < /run/bytes
same() { [ "$(dd if=/dev/mapper/data bs=1M iflag=direct 2>/dev/null | sha256sum)" = "$want" ]; }
imxcrypt unlock data >/dev/null
same
case $1 in
unlocked) imxcrypt rotate --resume-only data >/dev/null ;;
*) imxcrypt lock data >/dev/null; imxcrypt rotate --resume-only data >/dev/null; imxcrypt unlock data >/dev/null ;;
esac
same
imxcrypt lock data >/dev/null
`

// checkUsed does it with the files in it.
const checkUsed = `set -e
echo 1 > /sys/module/imxcrypt_simcaam/parameters/jdkek_reset
imxcrypt unlock --mount data >/dev/null
/opt/load -verify /data/load >/dev/null
sha256sum -c -s /run/still
case $1 in
unlocked) imxcrypt rotate --resume-only data >/dev/null ;;
*) imxcrypt lock data >/dev/null; imxcrypt rotate --resume-only data >/dev/null; imxcrypt unlock --mount data >/dev/null ;;
esac
echo 3 > /proc/sys/vm/drop_caches
/opt/load -verify /data/load >/dev/null
sha256sum -c -s /run/still
imxcrypt lock data >/dev/null
`

// judge tries images of every flush of a rotation. In use, what the filesystem
// writes is not torn within its blocks, which it relies on; idle, every sector of
// 512 bytes may be there or not.
func (r *replayed) judge(x *rotationRecord, device string) {
	r.t.Helper()
	r.configure(x, device)
	began, run := time.Now(), x.tape.Run(r.t)
	o := replay.Options{From: x.from, To: x.to, PerCut: 2, Seed: 5, Crash: crashtest.Options{Exhaustive: 6, Limit: 32}}
	check := checkIdle
	if x.used {
		check, o.Crash.Tear, o.PerCut = checkUsed, 1024, 1
	}
	if soak() {
		o.PerCut = 6
	}
	r.Put("/run/check", []byte(check))
	chosen := run.Sample(o)
	distinct, possible, flushes := run.Distinct(chosen), run.Count(o), run.Flushes(x.from, x.to)
	rng := rand.New(rand.NewPCG(o.Seed, 2))
	kinds := map[crashtest.Loss]int{}
	for n, s := range distinct {
		run.Lay(r.t, r.bench[r.benchOf(x)], s)
		how := []string{"unlocked", "locked"}[rng.IntN(2)]
		kinds[s.Loss()]++
		if result := r.Run("sh", "/run/check", how); result.Code != 0 {
			r.t.Fatalf("%s, finished %s, image %d, %v: %v\n%v", x.name, how, n, s, result, r.Sh("imxcrypt status --json; dmesg | tail -20"))
		}
	}
	r.t.Logf("%s: all %d flushes, %d images, %d distinct ones opened (%v) of %d possible, in %v",
		x.name, flushes, len(chosen), len(distinct), kinds, possible, time.Since(began).Round(time.Second))
	r.flushes, r.distinct, r.possible = r.flushes+flushes, r.distinct+len(distinct), r.possible+possible
}
