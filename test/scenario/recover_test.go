// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	"filippo.io/age"

	"imxcrypt/test/vm"
)

// A board fails: its disk is read on a machine without a CAAM, from the device and from
// an image, and then used in a replacement board.
func TestRecovery(t *testing.T) {
	longScenario(t, func(t *testing.T, b board) {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		other, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		disk := vm.NewDisk(t, 16<<20)
		m := b.start(t, disk)
		configure := func() {
			m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(oneVolume))
			m.Put("/root/key.txt", []byte("# "+id.Recipient().String()+"\n"+id.String()+"\n"))
			m.Put("/root/other.txt", []byte(other.String()+"\n"))
			m.MustSh("mkdir -p /data /mnt")
		}
		configure()
		b.expect(t, m.Run("imxcrypt", "provision", "data", "--recipient", id.String()), 2, "an identity, which is secret")
		r := m.Run("imxcrypt", "provision", "--json", "data", "--recipient", id.Recipient().String())
		b.expect(t, r, 0, "RECOVERY COPY")
		fingerprint := fingerprintIn(t, r.Stdout)
		m.MustSh("echo 'the quick brown fox' > /data/fox && sync")
		b.expect(t, m.Run("imxcrypt", "status"), 0, "RECOVERY COPY")
		b.expect(t, m.Run("imxcrypt", "status", "--json"), 0, `"recovery":{"recipients":["age1`)
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "locked")

		t.Log("a machine without a CAAM")
		m.Restart(func(c *vm.Config) { c.SimCAAM = nil })
		configure()
		before := sha256.Sum256(m.Get("/dev/vda"))
		b.expect(t, m.Run("imxcrypt", "recover", "--identity", "/root/other.txt", "/dev/vda"), 3, "does not open the recovery copy")
		b.expect(t, m.Run("imxcrypt", "recover", "--identity", "/root/key.txt", "/dev/vda"), 0, "/dev/mapper/recovered-data")
		table := m.MustRun("dmsetup", "table", "recovered-data")
		if !strings.Contains(table, ":32:logon:") || strings.Contains(table, "tk(") {
			t.Fatalf("table %s", table)
		}
		read := func(name string) {
			t.Helper()
			if got := m.MustSh("mount -o ro,noload /dev/mapper/" + name + " /mnt && cat /mnt/fox && umount /mnt"); got != "the quick brown fox\n" {
				t.Fatalf("%q", got)
			}
		}
		read("recovered-data")
		m.MustSh("cryptsetup close recovered-data")
		m.MustSh("cat /dev/vda > /disk.img")
		b.expect(t, m.Run("imxcrypt", "recover", "--identity", "/root/key.txt", "/disk.img", "--name", "rescued"), 0, "/dev/mapper/rescued")
		read("rescued")
		m.MustSh("dmsetup remove rescued && [ -z \"$(losetup -a)\" ]")
		if sha256.Sum256(m.Get("/dev/vda")) != before {
			t.Fatal("recovering wrote to the disk")
		}
		if strings.Contains(m.MustSh("cat /proc/keys"), "imxcrypt:") {
			t.Fatal("a key is left in a keyring")
		}

		t.Log("a replacement board")
		m.Restart(func(c *vm.Config) { c.SimCAAM = &vm.SimCAAM{Closed: true, OTPMK: strings.Repeat("5a", 32)} })
		configure()
		b.expect(t, m.Run("imxcrypt", "boot"), 3, "the hardware rejected the blob")
		b.expect(t, m.Run("imxcrypt", "recover", "--identity", "/root/key.txt", "--reseal", "data"), 2, "--fingerprint is missing")
		b.expect(t, m.Run("imxcrypt", "recover", "--identity", "/root/key.txt", "--reseal", "data", "--fingerprint", fingerprint), 0, "sealed by this chip")
		m.Restart()
		configure()
		b.expect(t, m.Run("imxcrypt", "boot"), 0, "mounted on /data")
		if got := m.MustSh("cat /data/fox"); got != "the quick brown fox\n" {
			t.Fatalf("%q", got)
		}

		t.Log("a thief makes a volume that fits, with a key that he knows")
		m.MustRun("imxcrypt", "lock", "data")
		uuid := strings.TrimSpace(m.MustSh("cryptsetup luksUUID /dev/vda"))
		m.Restart(func(c *vm.Config) { c.SimCAAM = &vm.SimCAAM{Closed: true, OTPMK: strings.Repeat("66", 32)} })
		configure()
		m.MustSh("blkdiscard -z /dev/vda; sed -i 's|device: /dev/vda|&\\n    uuid: " + uuid + "|' /etc/imxcrypt/imxcrypt.yaml")
		b.expect(t, m.Run("imxcrypt", "provision", "--no-mount", "data", "--recipient", id.Recipient().String()), 0, "RECOVERY COPY")
		m.Restart(func(c *vm.Config) { c.SimCAAM = &vm.SimCAAM{Closed: true, OTPMK: strings.Repeat("5a", 32)} })
		configure()
		before = sha256.Sum256(m.Get("/dev/vda"))
		b.expect(t, m.Run("imxcrypt", "recover", "--identity", "/root/key.txt", "--reseal", "data", "--fingerprint", fingerprint), 6, "is not the one with the fingerprint")
		if sha256.Sum256(m.Get("/dev/vda")) != before {
			t.Fatal("the disk was written")
		}
		b.expect(t, m.Run("imxcrypt", "boot"), 3, "the hardware rejected the blob")
	})
}

// fingerprintIn returns the fingerprint of the recovery copy from provision's JSON
// output.
func fingerprintIn(t *testing.T, text string) string {
	t.Helper()
	var line struct {
		Fingerprint string `json:"recovery_fingerprint"`
	}
	if err := json.Unmarshal([]byte(text), &line); err != nil || line.Fingerprint == "" {
		t.Fatalf("%v in %q", err, text)
	}
	return line.Fingerprint
}

// How to keep a volume when the chip is closed: a recovery copy before, the same key
// sealed again after. Without the copy a volume is lost, rotated or not.
func TestClosingTheChip(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		x := b.bench(t)
		x.chip("closed", "0", "1")
		x.Put(x.dir+"/key.txt", []byte(id.String()+"\n"))
		device, other, late := x.loop("disk"), x.loop("other"), x.loop("late")
		configure := func(more ...string) {
			x.configureText(x.volume("data", device, append([]string{"mount: " + x.dir + "/mnt"}, more...)...) +
				x.volume("other", other, append([]string{"required: false"}, more...)...) +
				x.volume("late", late, append([]string{"required: false"}, more...)...))
		}
		configure()
		x.expect(6, "this chip is open", "provision", "data")
		configure("allow_open_state: true")
		fingerprint := fingerprintIn(t, x.expect(0, `"ok":true`, "provision", "--json", "--recipient", id.Recipient().String(), "data").Stdout)
		x.MustSh("echo 'the quick brown fox' > " + x.dir + "/mnt/fox")
		x.expect(0, "other: unlocked", "provision", "other")
		x.expect(0, "generation 2", "rotate", "other")
		x.expect(0, "late: unlocked", "provision", "late")
		x.expect(6, "has no recovery copy", "recover", "--identity", x.dir+"/key.txt", late)
		x.expect(0, "generation 2", "rotate", "--recipient", id.Recipient().String(), "late")
		x.expect(0, "open", "status")
		x.expect(0, "locked", "lock", "--all")

		t.Log("the chip is closed")
		x.chip("closed", "1", "")
		x.powerCycle()
		const lost = "made while the chip was open; it has been closed since"
		x.expect(3, lost, "boot")
		x.expect(3, lost, "unlock", "other")
		x.expect(6, "has no recovery copy", "recover", "--identity", x.dir+"/key.txt", "--reseal", "other")
		x.expect(0, "/dev/mapper/recovered-late", "recover", "--identity", x.dir+"/key.txt", late)
		x.MustSh("e2fsck -fn /dev/mapper/recovered-late && dmsetup remove recovered-late")
		x.expect(0, "sealed by this chip (closed)", "recover", "--identity", x.dir+"/key.txt", "--reseal", "data", "--fingerprint", fingerprint)
		configure()
		x.powerCycle()
		x.expect(0, "data: mounted on", "boot")
		x.fox()
		x.expect(0, "closed", "status", "data")
		x.expect(6, "while the chip was open", "unlock", "other")
	})
}
