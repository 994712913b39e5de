// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// withoutModule removes a module from the running kernel, and from the folder where
// modprobe would find it again, until the test ends.
func (x *bench) withoutModule(name, file string) {
	x.t.Helper()
	path := strings.TrimSpace(x.MustSh("find /usr/lib/modules -name " + file))
	if path == "" {
		x.t.Fatalf("no module %s", file)
	}
	x.MustSh("mv " + path + " /opt/" + file + "; rmmod " + name)
	x.t.Cleanup(func() { x.Sh("mv /opt/" + file + " " + path + "; modprobe dm-crypt") })
}

const simcaam = "/usr/lib/modules/imxcrypt_simcaam.ko"

// The message names what is missing: the module, the kernel option, the program.
func TestKernelWithoutParts(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		device := x.provisioned("disk")
		tryAll := func(x *bench, says ...string) {
			x.t.Helper()
			for _, args := range [][]string{{"unlock", "data"}, {"boot"}, {"provision", "fresh"}} {
				r := x.expect(4, says[0], args...)
				for _, s := range says {
					if !strings.Contains(r.Stderr, s) {
						x.t.Errorf("%s: nothing says %q", args[0], s)
					}
				}
			}
			if left := x.Sh("dmsetup ls").Stdout; strings.Contains(left, "data") || strings.Contains(left, "fresh") {
				x.t.Errorf("left behind: %s", left)
			}
		}
		fresh := x.loop("fresh")
		x.configureText(x.volume("data", device, "mount: "+x.dir+"/mnt") + x.volume("fresh", fresh, "mount: null", "required: false"))

		t.Run("no /dev/caam-keygen", func(t *testing.T) {
			x := x.in(t)
			x.MustSh("rmmod imxcrypt_simcaam")
			defer x.MustSh("insmod " + simcaam + " closed=1")
			tryAll(x, "/dev/caam-keygen", "CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API")
			x.expect(4, "/dev/caam-keygen", "key", "create", "k", "--dir", x.dir)
			x.expect(1, "locked", "status")
		})
		t.Run("no tk(cbc(aes))", func(t *testing.T) {
			x := x.in(t)
			x.MustSh("rmmod imxcrypt_simcaam; insmod " + simcaam + " closed=1 tk=0")
			defer x.MustSh("rmmod imxcrypt_simcaam; insmod " + simcaam + " closed=1")
			tryAll(x, "tk(cbc(aes))", "CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API")
		})
		t.Run("no job ring", func(t *testing.T) {
			x := x.in(t)
			x.chip("no_job_ring", "1", "0")
			tryAll(x, "job ring")
		})
		t.Run("no dm-crypt", func(t *testing.T) {
			x := x.in(t)
			x.withoutModule("dm_crypt", "dm-crypt.ko")
			tryAll(x, "dm-crypt", "CONFIG_DM_CRYPT")
		})
		t.Run("no dm-mod", func(t *testing.T) {
			x := x.in(t)
			x.MustSh("cd /sys/module/dm_mod/holders; rmmod *") // dm-delay, too, if a rotation ran here before
			x.withoutModule("dm_mod", "dm-mod.ko")
			tryAll(x, "dm-mod", "CONFIG_BLK_DEV_DM")
			x.expect(4, "dm-mod", "status")
			x.expect(4, "dm-mod", "lock", "data")
		})
		t.Log("and with everything back")
		x.expect(0, "fresh: unlocked as", "provision", "fresh")
		x.expect(0, "data: mounted on", "boot")
		x.fox()
	})
}

// If mkfs ended a provisioning, the next run finishes it.
func TestMkfsMissingOrFailing(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		device := x.loop("disk")
		x.configure(device)
		x.MustSh("mv /usr/sbin/mkfs.ext4 /opt/mkfs.ext4.kept")
		t.Cleanup(func() { x.Sh("mv /opt/mkfs.ext4.kept /usr/sbin/mkfs.ext4") })
		x.expect(4, "mkfs.ext4", "provision", "data")
		x.Put("/usr/sbin/mkfs.ext4", []byte("#!/bin/sh\necho 'the moon is in the wrong phase' >&2\nexit 1\n"))
		x.MustSh("chmod 755 /usr/sbin/mkfs.ext4")
		x.expect(1, "the moon is in the wrong phase", "provision", "data")
		x.expect(7, "unprovisioned", "status")
		x.expect(7, "interrupted", "unlock", "data")
		x.MustSh("mv /opt/mkfs.ext4.kept /usr/sbin/mkfs.ext4")
		if left := x.MustRun("dmsetup", "ls"); !strings.Contains(left, "No devices") {
			t.Errorf("left behind: %s", left)
		}
		x.expect(0, "mounted on", "provision", "data")
	})
}

// If the header or the key cannot be stored, nothing is encrypted. Once there is space,
// the same command finishes.
func TestFullDisks(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		t.Run("of the detached header", func(t *testing.T) {
			x := b.bench(t)
			x.MustSh("mkdir " + x.dir + "/small; mount -t tmpfs -o size=16k small " + x.dir + "/small")
			x.configure(x.loop("disk"), "header: "+x.dir+"/small/data.header")
			x.expect(1, "no space left", "provision", "data")
			if left := x.MustSh("ls -A " + x.dir + "/small"); left != "" {
				t.Errorf("there is %s", left)
			}
			x.MustSh("mount -o remount,size=8m " + x.dir + "/small")
			x.expect(0, "mounted on", "provision", "data")
		})
		t.Run("of the dev source's keys", func(t *testing.T) {
			x := b.bench(t)
			state := x.dir + "/state"
			x.MustSh("mkdir " + state + "; mount -t tmpfs -o size=64k small " + state + "; mkdir " + state + "/dev; dd if=/dev/zero of=" + state + "/fill bs=4k 2>/dev/null || :")
			x.configureText(x.volume("data", x.loop("disk"), "source: dev", "mount: "+x.dir+"/mnt"), "state_dir: "+state, "allow_insecure: true")
			x.expect(1, "no space left", "provision", "data")
			x.MustSh("rm " + state + "/fill")
			x.expect(0, "mounted on", "provision", "data")
		})
	})
}

// The program can be tried on any Linux machine; a disk may appear late.
func TestDevSourceWithoutCAAM(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		state, disk := vm.NewDisk(t, 16<<20), vm.NewDisk(t, 16<<20)
		m := vm.Start(t, vm.Config{
			Arch: b.kernel, Disks: []*vm.Disk{state}, Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", b.goarch),
		})
		prepare := func() {
			m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte("volumes:\n  - {name: trial, device: /dev/vdb, source: dev, mount: /trial, timeout: 5m}\n"))
			m.MustSh("mkdir -p /trial /var/lib/imxcrypt; [ -n \"$(blkid /dev/vda)\" ] || mkfs.ext4 -q /dev/vda; mount /dev/vda /var/lib/imxcrypt")
		}
		prepare()
		b.expect(t, m.Run("imxcrypt", "provision", "trial"), 6, "--allow-insecure")
		m.HotPlug(disk, 0)
		b.expect(t, m.Run("imxcrypt", "provision", "--allow-insecure", "trial"), 0, "mounted on /trial")
		m.MustSh("echo 'the quick brown fox' > /trial/fox; sync; umount /var/lib/imxcrypt")
		m.Restart()
		prepare()
		b.expect(t, m.Run("imxcrypt", "boot"), 6, "--allow-insecure")

		t.Log("a disk that comes while the boot waits for it")
		p := m.Start("imxcrypt", "boot", "-v", "--allow-insecure")
		m.HotPlug(disk, 0)
		r := p.Wait()
		b.expect(t, r, 0, "mounted on /trial")
		if got := m.MustSh("cat /trial/fox"); got != "the quick brown fox\n" {
			t.Errorf("the file came back as %q", got)
		}
		if mode := m.MustSh("stat -c %a /var/lib/imxcrypt/dev /var/lib/imxcrypt/dev/*"); mode != "700\n600\n" {
			t.Errorf("modes of the keys: %q", mode)
		}
	})
}
