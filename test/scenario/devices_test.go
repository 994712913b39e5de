// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"path/filepath"
	"strings"
	"testing"
)

// Contents of a device that are not one of our volumes are left alone, byte for byte,
// and reported.
func TestDevicesThatAreNotEmpty(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		for _, c := range []struct {
			name, fill     string // fill writes the contents of $D
			says, saysOpen string
			openCode       int
		}{
			{"random bytes", "dd if=/dev/urandom of=$D bs=1M count=8 2>&1", "not empty", "looks like ciphertext", 8},
			{"one byte in the middle", "echo x | dd of=$D bs=1 seek=5000000 conv=notrunc 2>&1", "data at byte 5000000", "holds no imxcrypt volume", 6},
			{"a filesystem", "mkfs.ext4 -q $D", "unencrypted ext4", "unencrypted ext4", 6},
			{"a partition table", "echo 'label: gpt' | sfdisk -q $D", "unencrypted gpt", "unencrypted gpt", 6},
			{"LUKS2 of cryptsetup", "echo pw | cryptsetup luksFormat -q --type luks2 --luks2-metadata-size 16k --luks2-keyslots-size 256k --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $D -",
				"not imxcrypt's", "not imxcrypt's", 6},
			{"LUKS1 of cryptsetup", "echo pw | cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 $D -", "not imxcrypt's", "not imxcrypt's", 6},
		} {
			t.Run(c.name, func(t *testing.T) {
				x := b.bench(t)
				device := x.loop("disk")
				x.MustSh("D=" + device + "; " + c.fill + "; sync")
				before := x.MustRun("sha256sum", device)
				x.configure(device)
				x.expect(6, c.says, "provision", "data")
				x.expect(c.openCode, c.saysOpen, "unlock", "--mount", "data")
				x.expect(6, c.says, "provision", "--dry-run", "data")
				x.expect(2, "not confirmed", "provision", "--wipe", "data")
				if after := x.MustRun("sha256sum", device); after != before {
					t.Errorf("the device has changed")
				}
				if c.name == "LUKS2 of cryptsetup" {
					x.expect(0, "mounted on", "provision", "--wipe", "--yes", "data")
				}
			})
		}
	})
}

func TestDevicesThatCannotBeUsed(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		t.Run("too small", func(t *testing.T) {
			x := b.bench(t)
			x.MustSh("truncate -s 2M " + x.image("disk"))
			x.configure(x.loop("disk"))
			x.expect(4, "has 2048 KiB, this volume needs at least", "provision", "data")
		})
		t.Run("no multiple of the sector", func(t *testing.T) {
			x := b.bench(t)
			x.MustSh("truncate -s $((8192 * 1024 + 512)) " + x.image("disk"))
			x.configure(x.loop("disk"), "header: "+x.dir+"/data.header")
			x.expect(4, "not a multiple of the sector size 4096", "provision", "data")
		})
		t.Run("absent", func(t *testing.T) {
			x := b.bench(t)
			x.configure("/dev/mmcblk9p9")
			for _, command := range []string{"provision", "unlock", "verify"} {
				x.expect(4, "/dev/mmcblk9p9", command, "data")
			}
			x.expect(4, "absent", "status")
			if r := x.expect(4, "/dev/mmcblk9p9", "unlock", "--no-wait", "data"); strings.Contains(r.Stderr, "after 1s") {
				t.Error("it has waited")
			}
		})
		t.Run("read-only, empty", func(t *testing.T) {
			x := b.bench(t)
			x.configure(x.loop("disk", "--read-only"))
			x.expect(4, "read-only", "provision", "data")
		})
		t.Run("mounted", func(t *testing.T) {
			x := b.bench(t)
			device := x.loop("disk")
			x.configure(device)
			x.MustSh("mkfs.ext4 -q " + device + "; mkdir " + x.dir + "/other; mount " + device + " " + x.dir + "/other")
			x.expect(6, "unencrypted ext4", "provision", "data")
			x.expect(5, x.dir+"/other", "provision", "--wipe", "--yes", "data")
		})
		t.Run("under a mapping", func(t *testing.T) {
			x := b.bench(t)
			device := x.loop("disk")
			x.configure(device)
			x.MustSh("dmsetup create somebody --table '0 8192 linear " + device + " 0'")
			x.expect(5, "somebody", "provision", "data")
		})
		t.Run("a file", func(t *testing.T) {
			x := b.bench(t)
			image := x.image("disk")
			x.MustSh("truncate -s 8M " + image + "; chmod 666 " + image)
			x.configure(image)
			x.expect(6, "permissions", "provision", "data")
			if x.Sh("cmp -n 8388608 "+image+" /dev/zero").Code != 0 {
				t.Error("the file was written")
			}
			attached := func() string { return strings.TrimSpace(x.MustSh("losetup -n -O NAME -j " + image)) }
			locked := func(when string) {
				t.Helper()
				if loop := attached(); loop != "" {
					t.Errorf("%s: %s is there", when, loop)
				}
			}
			locked("refused")
			x.MustSh("chmod 600 " + image)
			x.expect(0, "mounted on", "provision", "data")
			x.MustSh("echo 'the quick brown fox' > " + x.dir + "/mnt/fox")
			if is := x.MustSh("cd /sys/block/" + filepath.Base(attached()) + "; cat loop/autoclear queue/logical_block_size"); is != "1\n4096\n" {
				t.Errorf("autoclear and block size are %q", is)
			}
			x.expect(0, "", "status")
			x.expect(0, "rotated", "rotate", "data")
			x.expect(0, "locked", "lock", "data")
			locked("locked")
			x.expect(1, "locked", "status")
			x.expect(0, "this chip opens it", "verify", "data")
			locked("verified")
			x.expect(0, "mounted on", "boot")
			x.fox()
			t.Log("a lock that ends half-way")
			x.MustSh("umount " + x.dir + "/mnt; dmsetup remove data")
			locked("without its mapping")
			x.MustSh("losetup --find --offset 4096 " + image)
			x.expect(5, "a part of", "unlock", "data")
			x.MustSh("losetup -d $(losetup -n -O NAME -j " + image + ")")
			x.expect(0, "mounted on", "unlock", "--mount", "data")
			x.fox()
			x.expect(0, "erased", "erase", "--yes", "data")
			locked("erased")
		})
	})
}

// The same volume on storage with different properties.
func TestDevicesOfOtherKinds(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		t.Run("4096-byte blocks", func(t *testing.T) {
			x := b.bench(t)
			x.provisioned("disk", "--sector-size", "4096")
			x.powerCycle()
			x.expect(0, "mounted on", "boot")
			x.fox()
		})
		t.Run("write-protected since", func(t *testing.T) {
			x := b.bench(t)
			x.provisioned("disk")
			x.MustSh("losetup -D")
			x.configure(x.loop("disk", "--read-only"))
			before := x.MustRun("sha256sum", x.image("disk"))
			x.powerCycle()
			x.expect(0, "mounted on", "unlock", "--mount", "data")
			x.fox()
			if x.Sh("echo new > "+x.dir+"/mnt/new").Code == 0 {
				t.Error("the volume can be written")
			}
			x.expect(0, "already", "unlock", "--mount", "data")
			x.expect(0, "this chip opens it", "verify", "data")
			x.expect(0, "locked", "lock", "data")
			if after := x.MustRun("sha256sum", x.image("disk")); after != before {
				t.Error("the device has changed")
			}
		})
		t.Run("write-protected with a journal to work off", func(t *testing.T) {
			x := b.bench(t)
			x.MustSh("truncate -s 24M " + x.image("disk")) // smaller ones get no journal
			x.provisioned("disk")
			x.expect(0, "mounted on", "unlock", "--mount", "data")
			x.MustSh("echo 'the lazy dog' > " + x.dir + "/mnt/dog; sync; cp " + x.image("disk") + " " + x.image("cut"))
			x.expect(0, "locked", "lock", "data")
			x.MustSh("losetup -D")
			device := x.loop("cut", "--read-only")
			x.configure(device)
			before := x.MustRun("sha256sum", x.image("cut"))
			x.expect(4, "mount option noload", "unlock", "--mount", "data")
			x.expect(0, "locked", "lock", "data")
			x.configureText(x.volume("data", device, "mount: {path: "+x.dir+"/mnt, options: [noload]}"))
			x.expect(0, "mounted on", "unlock", "--mount", "data")
			x.fox()
			x.expect(0, "locked", "lock", "data")
			if after := x.MustRun("sha256sum", x.image("cut")); after != before {
				t.Error("the device has changed")
			}
		})
		t.Run("a volume in a volume", func(t *testing.T) {
			x := b.bench(t)
			// The order of the names is wrong on purpose: --all begins with the volumes
			// that hold others.
			x.configureText(x.volume("inner", "/dev/mapper/outer", "mount: "+x.dir+"/mnt") + x.volume("outer", x.loop("disk"), "filesystem: none"))
			x.expect(0, "outer: unlocked", "provision", "outer")
			x.expect(6, "reads as noise", "provision", "inner")
			x.MustSh("dd if=/dev/zero of=/dev/mapper/outer bs=64k 2>/dev/null || :; sync")
			x.expect(0, "inner: mounted", "provision", "--all")
			x.MustSh("echo 'the quick brown fox' > " + x.dir + "/mnt/fox")
			x.expect(0, "inner: locked", "lock", "--all")
			x.powerCycle()
			x.expect(0, "inner: mounted", "unlock", "--all", "--mount")
			x.fox()
		})
		t.Run("detached header, ecb, 16 bytes, sectors of 512", func(t *testing.T) {
			x := b.bench(t)
			x.configure(x.loop("disk"), "header: "+x.dir+"/data.header", "wrap: ecb", "key_size: 16", "sector_size: 512")
			x.expect(0, "mounted on", "provision", "data")
			x.MustSh("echo 'the quick brown fox' > " + x.dir + "/mnt/fox")
			x.expect(0, "locked", "lock", "data")
			x.powerCycle()
			x.expect(0, "mounted on", "boot")
			x.fox()
			if mode := x.MustRun("stat", "-c", "%a", x.dir+"/data.header"); mode != "600\n" {
				t.Errorf("the header's mode is %s", mode)
			}
		})
		t.Run("no filesystem", func(t *testing.T) {
			x := b.bench(t)
			x.configureText(x.volume("data", x.loop("disk"), "filesystem: none", "mount: null"))
			x.expect(0, "unlocked as /dev/mapper/data", "provision", "data")
			x.MustSh("echo 'the quick brown fox' | dd of=/dev/mapper/data bs=4096 conv=sync,fsync 2>&1")
			x.expect(0, "locked", "lock", "data")
			x.powerCycle()
			x.expect(0, "unlocked", "unlock", "data")
			if got := x.MustSh("head -n 1 /dev/mapper/data"); got != "the quick brown fox\n" {
				t.Errorf("%q", got)
			}
		})
	})
}

// A mapping with the volume's name is accepted only if it belongs to the volume.
func TestMappingOfSomebodyElse(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		x.provisioned("disk")
		x.MustSh("dmsetup create data --table '0 8192 error'")
		x.expect(6, "is not this volume", "unlock", "data")
		x.expect(6, "is not an imxcrypt volume", "lock", "data")
		x.expect(6, "data", "status")
		x.MustSh("dmsetup remove data")
		x.expect(0, "mounted on", "unlock", "--mount", "data")
		x.fox()

		t.Log("the volume's own mapping with another table")
		x.MustSh("umount " + x.dir + "/mnt; dmsetup suspend data; dmsetup load data --table '0 8192 error'; dmsetup resume data")
		x.expect(6, "another table", "unlock", "--mount", "data")
		x.expect(0, "locked", "lock", "data")
	})
}

func TestMountPoints(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		device := x.loop("disk")
		x.configure(device)
		x.MustSh("rmdir " + x.dir + "/mnt")
		x.expect(6, x.dir+"/mnt", "provision", "data")
		if x.Sh("cmp -n 8388608 "+device+" /dev/zero").Code != 0 {
			t.Error("the device was written before the mount point was looked at")
		}
		x.MustSh("mkdir " + x.dir + "/mnt; mount -t tmpfs other " + x.dir + "/mnt")
		x.expect(6, "tmpfs", "provision", "data")
		x.MustSh("umount " + x.dir + "/mnt")
		x.expect(0, "mounted on", "provision", "data")
		x.MustSh("echo 'the quick brown fox' > " + x.dir + "/mnt/fox")

		t.Log("in use: nothing is taken away")
		p := x.Start("sh", "-c", "cd "+x.dir+"/mnt; echo there; exec sleep 600")
		p.WaitFor("there", x.patience())
		x.expect(5, "sleep", "lock", "data")
		x.fox()
		p.Kill()
		x.expect(0, "locked", "lock", "data")

		x.MustSh("mount -t tmpfs other " + x.dir + "/mnt")
		x.expect(6, "tmpfs", "boot")
		x.expect(1, "not mounted on", "status")
		x.MustSh("umount " + x.dir + "/mnt")
		x.expect(0, "mounted on", "boot")
		x.fox()
	})
}
