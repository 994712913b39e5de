// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// A volume of the old recipe, without space for a header or a gap on its device, gets
// its first new key while it is in use, with a power cut. Its header and the journal
// are on another disk.
func TestRotationOfAnAdoptedVolume(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		board
		wrap, cipher string
		sector       int
	}{
		{board{vm.ARM64, "arm64"}, "ccm", "capi:tk(cbc(aes))-plain64", 4096},
		{board{vm.AMD64, "amd64"}, "ecb", "capi:tk(cbc(aes))-plain", 512},
	} {
		t.Run(c.goarch+" "+c.wrap, func(t *testing.T) {
			t.Parallel()
			c.soakBut(t, "arm64")
			r := &rotated{board: c.board, t: t, wrap: c.wrap, load: vm.BuildProgram(t, "./test/load", c.goarch)}
			r.more = fmt.Sprintf("    header: /var/lib/imxcrypt/data.header\n    cipher: %s\n    sector_size: %d\n", c.cipher, c.sector)
			r.Machine = c.start(t, vm.NewDisk(t, 8<<20), vm.NewDisk(t, 8<<20))
			r.MustSh("mkfs.ext4 -q /dev/vdb; mkdir -p /var/lib/imxcrypt; mount /dev/vdb /var/lib/imxcrypt")
			r.prepare()
			r.MustRun("imxcrypt", "key", "create", "data", "--dir", "/caam", "--wrap", c.wrap)
			r.MustSh("FIRST=yes\nexport FIRST\n" + fmt.Sprintf(byHand, c.cipher, c.sector, "echo fox > /mnt/fox"))
			r.expect(0, "adopted", "adopt", "data", "--blob", "/caam/data.bb")
			r.expect(0, "mounted on /data", "unlock", "--mount", "data")
			r.adoptedThroughAPowerCut()
		})
	}
}

func (r *rotated) adoptedThroughAPowerCut() {
	load := startLoad(r.Machine, "/data")
	p := r.Start("imxcrypt", "rotate", "--json", "--rate-limit", "256KiB", "data")
	p.WaitFor(`"event":"progress"`, 3*time.Minute)
	if _, done, total := r.rotation(); !load.Running() || done == 0 || done >= total {
		r.t.Fatalf("the rotation stands at %d of %d", done, total)
	}
	r.Restart()
	// Unlocking halfway writes nothing unless a zone was cut off in the middle. What it
	// must write back it cannot write now, and it says so.
	r.MustSh("mkdir -p /var/lib/imxcrypt; mount -o ro /dev/vdb /var/lib/imxcrypt")
	r.prepare()
	readOnly := r.Run("imxcrypt", "boot")
	r.t.Logf("with the header on a read-only filesystem: %v", readOnly)
	r.MustSh("mount -o remount,rw /var/lib/imxcrypt")
	if readOnly.Code != 0 {
		r.expect(0, "mounted on /data", "boot")
	}
	_, done, total := r.rotation()
	r.t.Logf("after the power cut: %d of %d bytes", done, total)
	r.verify()
	r.expect(0, "this chip opens it", "verify", "data")
	end := r.busy()
	r.expect(0, "rotated, generation 2", "rotate", "--resume-only", "data")
	end()
	r.onlyTheVolume(2)
	if fox := r.MustSh("cat /data/fox"); fox != "fox\n" {
		r.t.Fatalf("the file came back as %q", fox)
	}
	r.expect(0, "locked", "lock", "data")
	r.expect(0, "rotated, generation 3", "rotate", "data")
	r.expect(0, "mounted on /data", "unlock", "--mount", "data")
	r.verify()
	r.MustSh("umount /data && e2fsck -fn /dev/mapper/data")
}
