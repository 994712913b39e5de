// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// A device with ext4 and files in plaintext is encrypted while it is in use, and
// decrypted again, each with a power cut in the middle. The header and the journal are
// on another disk.
func TestEncryptInPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		board
		wrap   string
		sector int
	}{{board{vm.ARM64, "arm64"}, "ccm", 4096}, {board{vm.AMD64, "amd64"}, "ecb", 1024}} {
		t.Run(c.goarch+" "+c.wrap, func(t *testing.T) {
			t.Parallel()
			c.soakBut(t, "amd64")
			r := &rotated{board: c.board, t: t, wrap: c.wrap, load: vm.BuildProgram(t, "./test/load", c.goarch)}
			r.more = fmt.Sprintf("    header: /var/lib/imxcrypt/data.header\n    sector_size: %d\n", c.sector)
			r.Machine = c.start(t, vm.NewDisk(t, 8<<20), vm.NewDisk(t, 8<<20))
			r.MustSh(fmt.Sprintf("mkfs.ext4 -q /dev/vdb; mkdir -p /var/lib/imxcrypt; mount /dev/vdb /var/lib/imxcrypt; mkfs.ext4 -q -b %d /dev/vda", c.sector))
			r.prepare()
			r.MustSh("mount /dev/vda /data; echo fox > /data/fox; blkid /dev/vda | grep -o ' UUID=[^ ]*' > /var/lib/imxcrypt/uuid")
			r.expect(5, "mounted", "encrypt", "data")
			r.MustSh("umount /data")
			r.expect(0, "encrypt", "encrypt", "--dry-run", "data")
			r.encryptedThroughAPowerCut()
			r.decryptedThroughAPowerCut()
		})
	}
}

// The same with the header on the device, in place of the filesystem's first bytes. The
// filesystem fills the device, with files up to its end, and is shrunk first. No
// plaintext is left on the disk. Then the device is decrypted again.
func TestEncryptOnTheDevice(t *testing.T) {
	t.Parallel()
	c := board{vm.AMD64, "amd64"}
	r := &rotated{board: c, t: t, wrap: "ecb", load: vm.BuildProgram(t, "./test/load", c.goarch)}
	r.more = "    sector_size: 1024\n"
	r.Machine = c.start(t, vm.NewDisk(t, 12<<20), vm.NewDisk(t, 24<<20))
	r.MustSh("mkfs.ext4 -q /dev/vdb; mkdir -p /var/lib/imxcrypt; mount /dev/vdb /var/lib/imxcrypt; mkfs.ext4 -q -b 1024 /dev/vda")
	r.prepare()
	r.MustSh("mount /dev/vda /data; head -c 7500000 /dev/urandom > /data/first; echo fox > /data/fox; yes 'the quick brown fox' | head -c 2200000 > /data/foxes; sync; rm /data/first")
	r.MustSh("blkid /dev/vda | grep -o ' UUID=[^ ]*' > /var/lib/imxcrypt/uuid")
	r.expect(5, "mounted", "encrypt", "data")
	r.MustSh("umount /data; e2fsck -fn /dev/vda; grep -q 'quick brown fox' /dev/vda")
	// With the mark in place of the superblock's first sector, nothing recognises the
	// device as a filesystem.
	r.MustSh("dd if=/dev/vda of=/run/sector bs=512 skip=2 count=1; dd if=/dev/zero of=/dev/vda bs=512 seek=2 count=1 conv=fsync; cp /dev/vda /run/marked; mkdir -p /mnt")
	r.MustSh("! mount -t ext4 /dev/vda /mnt && ! blkid -p /dev/vda && ! e2fsck -p /dev/vda && cmp /dev/vda /run/marked; dd if=/run/sector of=/dev/vda bs=512 seek=2 conv=fsync; rm /run/marked")
	r.expect(6, "is in memory", "encrypt", "--workspace", "/run", "data")
	r.expect(0, "make it smaller: from 12582912 to", "encrypt", "--dry-run", "data")
	r.expect(0, "keep the first", "encrypt", "--dry-run", "data")
	r.encryptedThroughAPowerCut()
	r.MustSh("! ls /var/lib/imxcrypt/*.shrink*; yes 'the quick brown fox' | head -c 2200000 | cmp - /data/foxes; umount /data && e2fsck -fn /dev/mapper/data; ! grep -q 'quick brown fox' /dev/vda")
	r.expect(0, "locked", "lock", "data")
	r.expect(0, "mounted on /data", "boot")
	r.fox("/dev/mapper/data")
	r.decryptedThroughAPowerCut()
}

// afterPowerCut boots, and fails if the device itself can be mounted as a filesystem.
func (r *rotated) afterPowerCut() {
	r.t.Helper()
	r.Restart()
	r.MustSh("mkdir -p /var/lib/imxcrypt; mount /dev/vdb /var/lib/imxcrypt")
	r.prepare()
	if seen := r.Sh("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt"); seen.Code == 0 {
		r.t.Fatalf("the device itself can be mounted: %v", seen)
	}
	r.expect(0, "mounted on /data", "boot")
	_, done, total := r.rotation()
	r.t.Logf("after the power cut: %d of %d bytes", done, total)
	if total == 0 {
		r.t.Fatal("nothing is under way")
	}
	r.verify()
	r.expect(0, "this chip opens it", "verify", "data")
}

func (r *rotated) encryptedThroughAPowerCut() {
	slowly := func() *vm.Process {
		p := r.Start("imxcrypt", "encrypt", "--json", "--rate-limit", "256KiB", "data")
		p.WaitFor(`"event":"progress"`, 3*time.Minute)
		return p
	}
	p := slowly()
	r.expect(0, "paused", "rotate", "--pause", "data")
	if result := p.Wait(); result.Code != 7 || r.held() {
		r.t.Fatalf("the paused encryption: %v", result)
	}
	_, paused, _ := r.rotation()
	slowly()
	load := startLoad(r.Machine, "/data")
	if _, done, total := r.rotation(); !load.Running() || paused == 0 || done <= paused || done >= total {
		r.t.Fatalf("the encryption stands at %d of %d, and was paused at %d", done, total, paused)
	}
	r.afterPowerCut()
	end := r.busy()
	r.expect(0, "encrypted", "encrypt", "data")
	end()
	r.onlyTheVolume(1)
	r.fox("/dev/mapper/data")
}

func (r *rotated) decryptedThroughAPowerCut() {
	r.MustSh("umount /data && e2fsck -fn /dev/mapper/data")
	r.expect(0, "locked", "lock", "data")
	r.expect(2, "not confirmed", "decrypt", "data")
	p := r.Start("imxcrypt", "decrypt", "--yes", "--json", "--rate-limit", "256KiB", "data")
	p.WaitFor(`"event":"progress"`, 3*time.Minute)
	r.afterPowerCut()
	end := r.busy()
	r.expect(0, "all data is in plain text, the header is still there", "decrypt", "--yes", "data")
	end()
	r.verify()
	r.expect(0, "locked", "lock", "data")
	r.expect(0, "decrypted", "decrypt", "--yes", "data")
	r.MustSh("test ! -e /var/lib/imxcrypt/data.header; e2fsck -fn /dev/vda; mount /dev/vda /data")
	r.verify()
	r.fox("/dev/vda")
}

// fox fails if the file from the beginning or the filesystem's UUID has changed.
func (r *rotated) fox(device string) {
	r.t.Helper()
	if fox := r.MustSh("cat /data/fox; blkid " + device + " | grep -q -F \"$(cat /var/lib/imxcrypt/uuid)\""); fox != "fox\n" {
		r.t.Fatalf("the file is %q", fox)
	}
}
