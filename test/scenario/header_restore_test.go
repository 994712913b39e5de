// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// byteInEachText damages both copies of a header, in different places.
func (x *bench) byteInEachText(device string) {
	x.t.Helper()
	x.flip(device, primary+jsonArea+100)
	x.flip(device, secondary+jsonArea+200)
}

// sum returns the checksum of all bytes of a file or device.
func (x *bench) sum(path string) string {
	x.t.Helper()
	return x.MustSh("sync; sha256sum < " + path)
}

// A backup made before a rotation is refused, without changing a byte, while anything
// on the device shows the rotation. The damage is repaired from what is on the device.
func TestABackupThatIsTooOld(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		device := x.provisioned("disk")
		x.expect(0, "already", "header", "repair", "data")
		x.expect(0, "written to", "header", "backup", "data", x.dir+"/backup")
		refused := func(code int, args ...string) {
			x.t.Helper()
			before := x.sum(device)
			x.expect(code, "", append([]string{"header", "restore", "--yes"}, args...)...)
			if x.sum(device) != before {
				x.t.Fatal("a refused restore changed the device")
			}
		}
		repaired := func() {
			x.t.Helper()
			x.expect(8, "header repair", "unlock", "data")
			x.expect(0, "would keep what is there", "header", "repair", "--dry-run", "data")
			x.expect(0, "repaired", "header", "repair", "data")
			x.MustRun("cryptsetup", "luksDump", device)
		}

		t.Log("half-way through a rotation")
		p := x.Start(x.command("rotate", "--json", "--rate-limit", "512KiB", "data")...)
		p.WaitFor(`"event":"progress"`, 3*time.Minute)
		p.Signal(syscall.SIGTERM)
		if r := p.Wait(); r.Code != 7 {
			t.Fatalf("the rotation that was stopped: %v", r)
		}
		refused(6, "data", x.dir+"/backup")
		x.byteInEachText(device)
		refused(6, "data", x.dir+"/backup")
		refused(6, "--force", "data", x.dir+"/backup")
		repaired()
		x.expect(0, "mounted on", "unlock", "--mount", "data")
		x.fox()
		x.expect(0, "rotated, generation 2", "rotate", "--resume-only", "data")
		x.fox()
		x.expect(0, "locked", "lock", "data")

		t.Log("after a rotation")
		x.byteInEachText(device)
		refused(6, "data", x.dir+"/backup")
		refused(6, "--force", "data", x.dir+"/backup")
		repaired()
		x.expect(0, "mounted on", "unlock", "--mount", "data")
		x.fox()
		x.byteInEachText(device)
		x.expect(0, "repaired", "header", "repair", "data")
		x.expect(0, "locked", "lock", "data")

		t.Log("a backup of now")
		x.expect(0, "written to", "header", "backup", "data", x.dir+"/now")
		area := x.MustSh("head -c 1048576 " + device + " | tail -c +32769 | sha256sum")
		x.MustSh("dd if=/dev/zero of=" + device + " bs=4096 count=8 conv=notrunc,fsync 2>&1")
		x.expect(0, "restored", "header", "restore", "data", x.dir+"/now")
		if x.MustSh("head -c 1048576 "+device+" | tail -c +32769 | sha256sum") != area {
			t.Error("the areas behind the copies are not those of the backup")
		}
		x.expect(0, "mounted on", "unlock", "--mount", "data")
		x.fox()
		x.expect(0, "locked", "lock", "data")
	})
}

// A detached header of another length is replaced or kept, even on a filesystem that is
// full or read-only.
func TestADetachedHeaderOnAFullFilesystem(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		device := x.loop("disk")
		dir := x.dir + "/hdr"
		header := dir + "/data.luks"
		x.MustSh("mkdir -p " + x.dir + "/mnt && mkdir " + dir + " && mount -t tmpfs -o size=12M,mode=755 tmpfs " + dir)
		t.Cleanup(func() { x.Sh("umount " + dir) })
		x.configure(device, "header: "+header)
		x.expect(0, "mounted on", "provision", "data")
		x.MustSh("echo 'the quick brown fox' > " + x.dir + "/mnt/fox")
		x.expect(0, "locked", "lock", "data")
		x.expect(0, "written to", "header", "backup", "data", x.dir+"/backup")

		x.MustSh(fmt.Sprintf("truncate -s 65536 %s; dd if=/dev/zero of=%s bs=512 seek=8 count=1 conv=notrunc 2>&1; cat /dev/zero > %s/filler 2>/dev/null || true", header, header, dir))
		before := x.sum(header)
		r := x.expect(1, "no space left on device", "header", "restore", "--yes", "data", x.dir+"/backup")
		if !strings.Contains(r.Stderr, "kept in") || x.sum(header) != before {
			t.Errorf("the header that was there is gone, or where it is kept is not said: %v", r)
		}
		x.MustSh("rm " + dir + "/filler")
		x.MustSh("mount -o remount,ro " + dir)
		x.expect(1, "read-only", "header", "restore", "--yes", "data", x.dir+"/backup")
		x.MustSh("mount -o remount,rw " + dir)
		x.expect(0, "restored", "header", "restore", "--yes", "data", x.dir+"/backup")
		x.expect(0, "mounted on", "unlock", "--mount", "data")
		x.fox()
		x.expect(0, "locked", "lock", "data")
	})
}
