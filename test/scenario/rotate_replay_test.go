// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"os"
	"syscall"
	"testing"

	"imxcrypt/test/replay"
	"imxcrypt/test/vm"
)

// What a rotation under load wrote, as the disk saw it: wherever the power could
// have gone, and whatever of the unflushed writes it could have lost or torn, the
// volume opens, all is there, and the rotation goes on to its end.
func TestRotationReplayed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		board
		wrap string
	}{{board{vm.AMD64, "amd64"}, "ecb"}, {board{vm.ARM64, "arm64"}, "ccm"}} {
		perDisk := 4
		if os.Getenv("IMXCRYPT_SOAK") != "" {
			perDisk = 600
		} else if c.goarch != "amd64" {
			continue
		}
		t.Run(c.goarch+" "+c.wrap, func(t *testing.T) {
			t.Parallel()
			const size = 10 << 20 // less, and mkfs makes no journal
			r := &rotated{board: c.board, t: t, wrap: c.wrap, load: vm.BuildProgram(t, "./test/load", c.goarch)}
			gap, journal, bench := vm.NewDisk(t, size), vm.NewDisk(t, size), vm.NewDisk(t, size)
			gap.LogWrites, journal.LogWrites = gap.Path+".log", journal.Path+".log"
			tapes := []*replay.Tape{replay.Load(t, gap), replay.Load(t, journal)}
			r.Machine = c.start(t, gap, journal, bench)
			tried := 0
			for n, more := range []string{"    header_size: 256KiB\n    gap: 256KiB\n", "    header_size: 256KiB\n    gap: 0MiB\n"} {
				r.more = more
				tried += r.replayed(tapes[n], []string{"/dev/vda", "/dev/vdb"}[n], bench, perDisk)
			}
			t.Logf("%s: %d states of recorded rotations tried, 0 lost", c.goarch, tried)
		})
	}
}

// checkFiles opens what a power cut left, checks its files, and finishes the
// rotation, in use or not.
const checkFiles = `set -e
imxcrypt unlock --mount data >/dev/null
/opt/load -verify /data >/dev/null
sha256sum -c -s /run/still
case $1 in
used) imxcrypt rotate --resume-only data >/dev/null ;;
*) imxcrypt lock data >/dev/null; imxcrypt rotate --resume-only data >/dev/null; imxcrypt unlock --mount data >/dev/null ;;
esac
echo 3 > /proc/sys/vm/drop_caches
/opt/load -verify /data >/dev/null
sha256sum -c -s /run/still
imxcrypt lock data >/dev/null
`

// checkBytes does it with every byte of the volume.
const checkBytes = `set -e
same() { test "$(dd if=/dev/mapper/data bs=1M iflag=direct 2>/dev/null | sha256sum)" = "$(cat /run/bytes)"; }
imxcrypt unlock data >/dev/null
same
case $1 in
used) imxcrypt rotate --resume-only data >/dev/null ;;
*) imxcrypt lock data >/dev/null; imxcrypt rotate --resume-only data >/dev/null; imxcrypt unlock data >/dev/null ;;
esac
same
imxcrypt lock data >/dev/null
`

// replayed records rotations of the volume on a disk, and tries states of them
// on another. In use, the filesystem's own writes are not torn within a block,
// which it relies on; idle, every sector of 512 bytes may be there or not.
func (r *rotated) replayed(tape *replay.Tape, device string, bench *vm.Disk, images int) (tried int) {
	r.device = device
	r.prepare()
	r.expect(0, "mounted on /data", "provision", "data")
	r.MustSh("dd if=/dev/urandom of=/data/still bs=64k count=8 2>/dev/null; sync; sha256sum /data/still > /run/still")
	if os.Getenv("IMXCRYPT_SOAK") == "" && device != "/dev/vda" {
		r.expect(0, "locked", "lock", "data")
		return r.idle(tape, device, bench, images)
	}
	load := r.Start("/opt/load", "/data")
	used := replay.Options{From: tape.Now(r.t), PerCut: 2, Max: images, Seed: 5}
	used.Crash.Tear = 4096
	bounded(&used)
	r.expect(0, "rotated, generation 2", "rotate", "data")
	used.To = tape.Now(r.t)
	load.Signal(syscall.SIGTERM)
	result := load.Wait()
	r.t.Logf("load: %v", result)
	if result.Code != 0 {
		r.t.Fatal("the load failed")
	}
	r.expect(0, "locked", "lock", "data")
	run := tape.Run(r.t)
	r.device = "/dev/vdc"
	r.prepare()
	r.lost(run, bench, used, "in use on "+device, checkFiles)
	r.device = device
	r.prepare()
	return images + r.idle(tape, device, bench, images)
}

// bounded keeps a sample from enumerating for longer than it is tried.
func bounded(o *replay.Options) {
	if os.Getenv("IMXCRYPT_SOAK") == "" {
		o.Crash.Exhaustive, o.Crash.Limit = 6, 32
	}
}

// idle records and tries a rotation of the locked volume.
func (r *rotated) idle(tape *replay.Tape, device string, bench *vm.Disk, images int) (tried int) {
	r.t.Helper()
	r.MustSh("imxcrypt unlock data; dd if=/dev/mapper/data bs=1M iflag=direct 2>/dev/null | sha256sum > /run/bytes; imxcrypt lock data")
	idle := replay.Options{From: tape.Now(r.t), PerCut: 2, Max: images, Seed: 6}
	bounded(&idle)
	r.expect(0, "rotated, generation", "rotate", "data")
	idle.To = tape.Now(r.t)
	run := tape.Run(r.t)
	r.device = "/dev/vdc"
	r.prepare()
	r.lost(run, bench, idle, "idle on "+device, checkBytes)
	return images
}

func (r *rotated) lost(run *replay.Run, bench *vm.Disk, o replay.Options, what, check string) {
	r.t.Helper()
	r.Put("/run/check", []byte(check))
	states := run.Sample(o)
	r.t.Logf("%s: %d of %d states", what, len(states), run.Count(o))
	for n, s := range states {
		run.Lay(r.t, bench, s)
		how := []string{"used", "locked"}[n%2]
		if result := r.Run("sh", "/run/check", how); result.Code != 0 {
			r.t.Fatalf("%s, %s, state %d, %v: %v\n%v", what, how, n, s, result, r.Sh("imxcrypt status --json; dmesg | tail -20"))
		}
	}
}
