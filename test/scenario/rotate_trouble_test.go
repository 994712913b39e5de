// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// Failures during a rotation: the rotation stops and reports where, the volume stays
// readable, and when the failure is over the rotation continues.
func TestRotationInTrouble(t *testing.T) {
	t.Parallel()
	for _, b := range []struct {
		board
		wrap string
	}{{board{vm.AMD64, "amd64"}, "ecb"}, {board{vm.ARM64, "arm64"}, "ccm"}} {
		t.Run(b.goarch+" "+b.wrap, func(t *testing.T) {
			t.Parallel()
			b.soakBut(t, "amd64")
			r := &rotated{board: b.board, t: t, wrap: b.wrap, load: vm.BuildProgram(t, "./test/load", b.goarch)}
			r.Machine = b.start(t, vm.NewDisk(t, 10<<20))
			r.device = "/dev/mapper/under"
			r.prepare()
			r.under("", "")
			r.expect(0, "mounted on /data", "provision", "data")
			end := r.busy()
			time.Sleep(time.Second)
			end()
			r.writeErrors()
			r.readErrors()
			r.suspended()
			r.closed()
			r.full()
		})
	}
}

// under makes the device of the volume, or changes it below the volume. It maps the
// whole disk, but the 8 sectors from bad on use another target.
func (r *rotated) under(bad, target string) {
	r.t.Helper()
	const size = 10 << 20 / 512
	table := fmt.Sprintf("0 %d linear /dev/vda 0", size)
	if n, err := strconv.Atoi(bad); err == nil {
		table = fmt.Sprintf("0 %d linear /dev/vda 0\n%d 8 %s\n%d %d linear /dev/vda %[4]d", n, n, target, n+8, size-n-8)
	}
	r.MustSh("modprobe dm-flakey; printf '" + table + "\n' >/tmp/under.table; if test -e /dev/mapper/under; then " +
		"dmsetup load under /tmp/under.table; dmsetup suspend --noflush --nolockfs under; dmsetup resume under; " +
		"else dmsetup create under /tmp/under.table; fi")
}

// offset returns the sector of the device at which the volume begins.
func (r *rotated) offset() int {
	r.t.Helper()
	fields := strings.Fields(r.MustRun("dmsetup", "table", "data"))
	n, err := strconv.Atoi(fields[7])
	if err != nil {
		r.t.Fatal(fields, err)
	}
	return n
}

// writeErrors: a sector to which the data moves cannot be written.
func (r *rotated) writeErrors() {
	const bad = 1000 // sector of the volume
	const gap = 1 << 20 / 512
	at := strconv.Itoa(r.offset() - gap + bad)
	r.t.Log("with dm-flakey no flush succeeds either")
	r.under(at, "flakey /dev/vda "+at+" 0 3600 1 error_writes")
	r.expect(1, "input/output error", "rotate", "data")
	if r.held() {
		r.t.Fatal("a zone is held")
	}
	r.MustSh("ls /data >/dev/null")
	r.under(at, "error")
	r.verify()
	end := r.busy()
	r.expect(1, fmt.Sprintf("write at byte %d (sector %d) of the new mapping", bad*512, bad), "rotate", "data")
	if r.held() {
		r.t.Fatal("a zone is held")
	}
	end()
	if _, done, total := r.rotation(); done > bad*512 || total == 0 {
		r.t.Fatalf("%d of %d", done, total)
	}
	r.under("", "")
	end = r.busy()
	r.expect(0, "rotated, generation 2", "rotate", "data")
	end()
	r.onlyOver("under", 2)
}

// victim makes a file that may become unreadable, and returns a sector of the volume
// that belongs to it.
func (r *rotated) victim() int {
	r.t.Helper()
	blocks := strings.Fields(r.MustSh("dd if=/dev/urandom of=/data/victim bs=64k count=4 2>/dev/null; sync; debugfs -R 'blocks /victim' /dev/mapper/data 2>/dev/null"))
	middle, err := strconv.Atoi(blocks[len(blocks)/2])
	if err != nil {
		r.t.Fatal(blocks, err)
	}
	return middle * (256 << 10 / len(blocks)) / 4096 * 8
}

// readErrors: a sector that was not moved yet cannot be read. The data now moves up,
// beginning at its end.
func (r *rotated) readErrors() {
	bad := r.victim()
	r.under(strconv.Itoa(r.offset()+bad), "error")
	r.expect(1, fmt.Sprintf("read at byte %d (sector %d) of the old mapping", bad*512, bad), "rotate", "data")
	if r.held() {
		r.t.Fatal("a zone is held")
	}
	r.verify()
	r.expect(0, "2→3", "status", "data")
	r.expect(0, "locked", "lock", "data")
	r.expect(0, "mounted on /data", "unlock", "--mount", "data")
	r.verify()
	r.under("", "")
	end := r.busy()
	r.expect(0, "rotated, generation 3", "rotate", "--resume-only", "data")
	end()
	r.onlyOver("under", 3)
}

// onlyOver is onlyTheVolume for a device that is itself a mapping.
func (r *rotated) onlyOver(device string, generation int) {
	r.t.Helper()
	if list := r.MustRun("dmsetup", "ls"); strings.Count(list, "\n") != 2 || !strings.Contains(list, device+"\t") {
		r.t.Fatalf("mappings: %s", list)
	}
	if g, _, total := r.rotation(); g != generation || total != 0 {
		r.t.Fatalf("generation %d, of a rotation of %d bytes", g, total)
	}
}

// suspended: another program suspends the volume during a rotation. The header forbids
// cryptsetup to do so. If cryptsetup does not find the header, because a part of the
// mapping is of a kind that it does not know (delay), its attempt fails and leaves
// nothing suspended.
func (r *rotated) suspended() {
	end := r.busy()
	p := r.Start("imxcrypt", "rotate", "--json", "--rate-limit", "256KiB", "data")
	p.WaitFor(`"event":"progress"`, 3*time.Minute)
	result := r.Run("cryptsetup", "luksSuspend", "data")
	if said := result.Stderr; result.Code == 0 || !strings.Contains(said, "Unmet LUKS2 requirements") && !strings.Contains(said, "message ioctl on data  failed") {
		r.t.Fatalf("cryptsetup luksSuspend: %v", result)
	}
	if state := r.MustRun("dmsetup", "info", "-c", "--noheadings", "-o", "suspended", "data"); strings.TrimSpace(state) != "Active" {
		r.t.Fatalf("cryptsetup luksSuspend leaves the volume %s: %v", state, result)
	}
	r.MustRun("dmsetup", "suspend", "data")
	if !r.held() {
		r.t.Fatal("the volume is not suspended")
	}
	r.expect(0, "paused", "rotate", "--pause", "data")
	r.t.Logf("the rotation: %v", p.Wait())
	r.expect(0, "data", "unlock", "data")
	if r.held() {
		r.t.Fatal("something is suspended still")
	}
	end()
	r.expect(0, "rotated, generation 4", "rotate", "--resume-only", "data")
	r.verify()
	r.onlyOver("under", 4)
}

// closed: another program closes the volume during a rotation.
func (r *rotated) closed() {
	end := r.busy()
	p := r.Start("imxcrypt", "rotate", "--json", "--rate-limit", "1MiB", "data")
	p.WaitFor(`"event":"progress"`, 3*time.Minute)
	if result := r.Run("cryptsetup", "close", "data"); result.Code == 0 {
		r.t.Fatal("a mounted volume was closed")
	}
	end()
	r.MustRun("umount", "/data")
	closed := r.Run("cryptsetup", "close", "data")
	result := p.Wait()
	r.t.Logf("cryptsetup close: %v\nthe rotation: %v", closed, result)
	r.expect(0, "mounted on /data", "unlock", "--mount", "data")
	r.verify()
	r.expect(0, "", "rotate", "--resume-only", "data")
	r.verify()
	r.onlyOver("under", 5)
}

// full: the underlying storage has less space than it claims.
func (r *rotated) full() {
	r.expect(0, "locked", "lock", "data")
	r.MustSh("mkdir -p /thin; mount -t tmpfs -o size=7m tmpfs /thin; truncate -s 10M /thin/disk; losetup /dev/loop7 /thin/disk")
	r.device = "/dev/loop7"
	r.prepare()
	r.expect(0, "mounted on /data", "provision", "data")
	end := r.busy()
	time.Sleep(time.Second)
	end()
	r.expect(1, "of the new mapping", "rotate", "data")
	if r.held() {
		r.t.Fatal("a zone is held")
	}
	r.verify()
	_, done, total := r.rotation()
	r.t.Logf("storage full at %d of %d bytes", done, total)
	r.MustRun("mount", "-o", "remount,size=16m", "/thin")
	end = r.busy()
	r.expect(0, "rotated, generation 2", "rotate", "data")
	end()
	r.verify()
}
