// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// An erase, like every other command that writes, is refused before the first byte
// while something else uses the device, and the volume opens afterwards.
func TestEraseIsRefusedWhileTheDeviceIsInUse(t *testing.T) {
	longScenario(t, func(t *testing.T, b board) {
		m := b.start(t, vm.NewDisk(t, 64<<20), vm.NewDisk(t, 64<<20))
		m.MustSh("mkdir -p /data /far /again")
		for _, c := range []struct{ name, device, header, mount string }{
			{"near", "/dev/vda", "", "/data"},
			{"far", "/dev/vdb", "    header: /etc/far.header\n", "/far"},
		} {
			configuration := func(mount string) string {
				return "volumes:\n  - name: " + c.name + "\n    device: " + c.device + "\n" + c.header + "    mount: {path: " + mount + "}\n"
			}
			m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(configuration(c.mount)))
			m.Put("/etc/imxcrypt/other.yaml", []byte("mapping_prefix: p2-\n"+configuration("/again")))
			stored := func() string { return m.MustSh("cat " + c.device + " /etc/*.header 2>/dev/null | sha256sum") }
			run := func(args ...string) vm.Result { return m.Run(append([]string{"imxcrypt"}, args...)...) }

			b.expect(t, run("provision", c.name), 0, "mounted on "+c.mount)
			m.MustSh("echo 'the quick brown fox' > " + c.mount + "/fox && sync")
			b.expect(t, run("lock", c.name), 0, "")

			t.Log(c.name + ": locked, and something lies over the device")
			for _, h := range []struct{ hold, free, says string }{
				{"echo 0 100 linear " + c.device + " 0 | dmsetup create hold", "dmsetup remove --retry hold", "mapped as hold"},
				{"losetup /dev/loop5 " + c.device, "losetup -d /dev/loop5", "held by loop5"},
			} {
				m.MustSh(h.hold)
				before := stored()
				b.expect(t, run("erase", "--dry-run", c.name), 5, h.says)
				b.expect(t, run("erase", "--yes", c.name), 5, h.says)
				b.expect(t, run("rotate", c.name), 5, h.says)
				b.expect(t, run("provision", c.name), 5, h.says)
				b.expect(t, run("unlock", c.name), 5, h.says)
				b.expect(t, run("bench", "--device", c.device), 6, h.says)
				if stored() != before {
					t.Fatal("a refused command has written")
				}
				m.MustSh(h.free)
			}

			t.Log(c.name + ": mounted by a configuration with another prefix")
			b.expect(t, run("--config", "/etc/imxcrypt/other.yaml", "unlock", "--mount", c.name), 0, "mounted on /again")
			b.expect(t, run("erase", "--dry-run", c.name), 5, "mapped as p2-"+c.name)
			b.expect(t, run("erase", "--yes", c.name), 5, "mapped as p2-"+c.name)
			b.expect(t, run("rotate", c.name), 5, "mapped as p2-"+c.name)
			m.MustSh("echo more > /again/more && sync")
			b.expect(t, run("--config", "/etc/imxcrypt/other.yaml", "lock", c.name), 0, "")

			if c.header != "" {
				t.Log(c.name + ": the header's file is locked by another process")
				before := stored()
				b.expect(t, m.Run("flock", "/etc/far.header", "imxcrypt", "erase", "--yes", c.name), 5, "another process has locked it")
				if stored() != before {
					t.Fatal("a refused erase has written")
				}
			}
			b.expect(t, run("unlock", "--mount", c.name), 0, "mounted on "+c.mount)
			if got := m.MustSh("cat " + c.mount + "/fox " + c.mount + "/more"); got != "the quick brown fox\nmore\n" {
				t.Fatalf("the files came back as %q", got)
			}
			b.expect(t, run("erase", "--yes", c.name), 0, "erased")
			b.expect(t, run("unlock", c.name), 6, "was erased on")
			if strings.Contains(string(m.Get(c.device)[:1<<20]), "imxcrypt-check") {
				t.Fatal("something of the header is left")
			}
		}
	})
}

// Copies of a mount in other mount namespaces: those that propagate are unmounted with
// ours, the others are named, and the volume stays mounted.
func TestLockBesideAnotherMountNamespace(t *testing.T) {
	longScenario(t, func(t *testing.T, b board) {
		m := b.start(t, vm.NewDisk(t, 64<<20))
		m.MustSh("mkdir -p /data && mount --make-rshared /")
		m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(oneVolume))
		b.expect(t, m.Run("imxcrypt", "provision", "data"), 0, "mounted on /data")

		t.Log("a service whose namespace follows the system's, as systemd makes them")
		m.MustSh("unshare -m --propagation slave sleep 1000 >/dev/null 2>&1 & echo $! > /slave; until grep -q sleep /proc/$!/comm; do sleep 0.1; done; grep -q /data /proc/$(cat /slave)/mountinfo")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "")
		b.expect(t, m.Run("imxcrypt", "unlock", "--mount", "data"), 0, "mounted on /data")

		t.Log("a container that has a mount of its own")
		m.MustSh("unshare -m --propagation private sleep 1000 >/dev/null 2>&1 & echo $! > /private; until grep -q sleep /proc/$!/comm; do sleep 0.1; done")
		b.expect(t, m.Run("imxcrypt", "lock", "--dry-run", "data"), 5, "mounted on /data in another mount namespace")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 5, "(sleep)")
		m.MustSh("grep -q ' /data ' /proc/mounts && echo still > /data/here && kill $(cat /private) && sleep 1")

		t.Log("an unmount in the middle, that a namespace without a process holds up")
		m.MustSh("mkdir -p /kept && mount --bind /kept /kept && mount --make-private /kept && touch /kept/ns && unshare --mount=/kept/ns --propagation private true")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 5, "")
		m.MustSh("grep -q ' /data ' /proc/mounts && grep -q still /data/here && umount /kept/ns")

		t.Log("programs")
		m.MustSh("sleep 1000 < /dev/mapper/data >/dev/null 2>&1 & echo $! > /reader; until grep -q sleep /proc/$!/comm; do sleep 0.1; done")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 5, "a program has it open")
		m.MustSh("grep -q ' /data ' /proc/mounts && kill $(cat /reader); sleep 1")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "data: locked")
		m.MustSh("kill $(cat /slave)")
	})
}
