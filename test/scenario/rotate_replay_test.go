// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/test/replay"
	"imxcrypt/test/vm"
)

// The volumes are as small as possible with several zones and, if in use, with a
// journal in their filesystem: the less there is to encrypt, the more images can be
// tried. Idle volumes have five zones of a quarter MiB; volumes in use have six of half
// a MiB.
const (
	idleSize = 1536 << 10
	usedSize = 3584 << 10

	gapIdle     = "    header_size: 128KiB\n    gap: 256KiB\n"
	journalIdle = "    header_size: 320KiB\n    gap: 0MiB\n"
	// mkfs makes a journal from 2048 blocks on; with blocks of 4 KiB that would be 8
	// MiB.
	gapUsed     = "    header_size: 128KiB\n    gap: 512KiB\n    sector_size: 1024\n"
	journalUsed = "    header_size: 580KiB\n    gap: 0MiB\n    sector_size: 1024\n"
)

// The recorded writes of rotations: wherever power could have been cut, and whichever
// unflushed writes it could have lost or torn, the volume opens, all data is there, and
// the rotation continues to its end.
func TestRotationReplayed(t *testing.T) {
	t.Parallel()
	for _, b := range []struct {
		board
		wrap string
	}{{board{vm.AMD64, "amd64"}, "ecb"}, {board{vm.ARM64, "arm64"}, "ccm"}} {
		for _, c := range []struct {
			name, config string
			used, up     bool
			long         bool
			perCut       int
		}{
			{"gap, idle", gapIdle, false, false, true, 1},
			{"gap, idle, data going up", gapIdle, false, true, false, 1},
			{"journal, idle", journalIdle, false, false, false, 1},
			{"gap, in use", gapUsed, true, false, false, 1},
			{"journal, in use", journalUsed, true, false, true, 1},
		} {
			t.Run(b.goarch+", "+c.name, func(t *testing.T) {
				t.Parallel()
				b.soakBut(t, "amd64")
				if c.long && !soak() {
					t.Skip("NOT TESTED: what the others have together, by make soak only")
				}
				size, perCut := int64(idleSize), c.perCut
				if soak() {
					perCut = 6
				}
				if c.used {
					size = usedSize
				}
				disk := vm.NewDisk(t, size)
				disk.LogWrites = disk.Path + ".log"
				r := &replayed{
					rotated: &rotated{board: b.board, t: t, wrap: b.wrap, more: c.config},
					used:    c.used, up: c.up, tape: replay.Load(t, disk), bench: vm.NewDisk(t, size),
				}
				r.Machine = b.start(t, disk, r.bench)
				r.PutFile("/opt/load", vm.BuildProgram(t, "./test/load", b.goarch))
				r.record()
				r.check(perCut)
			})
		}
	}
}

// replayed is a board that records a rotation and checks what power cuts leave of it.
// The volume is either locked, and every byte of it is compared, or mounted and written
// to.
type replayed struct {
	*rotated
	used     bool
	up       bool // not the first rotation: the data moves up again
	tape     *replay.Tape
	from, to replay.Place
	bench    *vm.Disk
}

// record rotates a new volume.
func (r *replayed) record() {
	r.t.Helper()
	r.configureVolume()
	r.expect(0, "mounted on /data", "provision", "data")
	r.MustSh("dd if=/dev/urandom of=/data/still bs=64k count=4 2>/dev/null; sync; sha256sum /data/still > /run/still")
	if !r.used {
		// As much as fits.
		r.MustSh("dd if=/dev/urandom of=/data/more bs=64k 2>/dev/null || true; imxcrypt lock data; imxcrypt unlock data; dd if=/dev/mapper/data bs=1M iflag=direct 2>/dev/null | sha256sum > /run/bytes; imxcrypt lock data")
		generation := 2
		if r.up {
			r.expect(0, "rotated, generation 2", "rotate", "data")
			generation++
		}
		r.from = r.tape.Now(r.t)
		r.expect(0, fmt.Sprintf("rotated, generation %d", generation), "rotate", "data")
		r.to = r.tape.Now(r.t)
		return
	}
	r.MustSh("mkdir /data/load")
	load := startLoad(r.Machine, "-pause", "50ms", "/data/load")
	r.from = r.tape.Now(r.t)
	r.expect(0, "rotated, generation 2", "rotate", "--max-hold", "10s", "data")
	r.to = r.tape.Now(r.t)
	load.Signal(syscall.SIGTERM)
	result := load.Wait()
	if result.Code != 0 {
		r.t.Fatalf("the load failed: %v", result)
	}
	r.t.Logf("load: %s", strings.TrimSpace(result.Stdout))
	r.expect(0, "locked", "lock", "data")
}

// checkIdle opens what a power cut left, compares every byte of the volume, and
// finishes the rotation, with the volume unlocked or locked.
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

// checkUsed does the same with the files in the volume.
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

// check tries some images of every flush of the rotation. In use, the filesystem's
// writes are not torn within its blocks, because it relies on that; idle, every sector
// of 512 bytes may be present or missing.
func (r *replayed) check(perCut int) {
	r.t.Helper()
	r.device = "/dev/vdb"
	r.configureVolume()
	run := r.tape.Run(r.t)
	o := replay.Options{From: r.from, To: r.to, PerCut: perCut, Seed: 5, Crash: crashtest.Options{Exhaustive: 6, Limit: 32}}
	check := checkIdle
	if r.used {
		check, o.Crash.Tear = checkUsed, 1024
	}
	r.Put("/run/check", []byte(check))
	rng := rand.New(rand.NewPCG(o.Seed, 2))
	n := tryImages(r.t, run, "opened, checked and rotated to the end", o, func(s *crashtest.State) {
		run.Lay(r.t, r.bench, s)
		how := []string{"unlocked", "locked"}[rng.IntN(2)]
		if result := r.Run("sh", "/run/check", how); result.Code != 0 {
			r.t.Fatalf("finished %s, %v: %v\n%v", how, s, result, r.Sh("imxcrypt status --json; dmesg | tail -20"))
		}
	})
	r.t.Logf("%d flushes recorded; of the rotation %v; 0 lost", run.Flushes(0, 0), n)
}
