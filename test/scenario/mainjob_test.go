// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// The main job: provision, power-cycle, unlock and mount at boot, data back.
func TestMainJob(t *testing.T) {
	eachBoard(t, func(t *testing.T, b board) {
		disk := vm.NewDisk(t, 64<<20)
		m := b.start(t, disk)
		m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(oneVolume))
		m.MustSh("mkdir -p /data")

		b.expect(t, m.Run("imxcrypt", "status"), 1, "unprovisioned")
		b.expect(t, m.Run("imxcrypt", "provision", "-v", "data"), 0, "mounted on /data")
		m.MustSh("echo 'the quick brown fox' > /data/fox && sync")
		b.expect(t, m.Run("imxcrypt", "provision", "data"), 0, "already")

		t.Log("what the power cut leaves on the disk shows no plaintext")
		if strings.Contains(string(m.Get("/dev/vda")), "quick brown fox") {
			t.Fatal("the plaintext lies on the disk")
		}
		m.Restart()
		m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(oneVolume))
		m.MustSh("mkdir -p /data")
		b.expect(t, m.Run("imxcrypt", "status"), 1, "locked")
		b.expect(t, m.Run("imxcrypt", "boot", "-v"), 0, "mounted on /data")
		if got := m.MustSh("cat /data/fox"); got != "the quick brown fox\n" {
			t.Fatalf("the file came back as %q", got)
		}
		b.expect(t, m.Run("imxcrypt", "boot"), 0, "already")
		b.expect(t, m.Run("imxcrypt", "verify", "data"), 0, "this chip opens it")
		b.expect(t, m.Run("imxcrypt", "status"), 0, "mounted")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "data: locked")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "already")

		t.Log("the same disk in another chip is refused")
		m.Restart(func(c *vm.Config) { c.SimCAAM.OTPMK = strings.Repeat("5a", 32) })
		m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(oneVolume))
		m.MustSh("mkdir -p /data")
		b.expect(t, m.Run("imxcrypt", "boot"), 3, "the hardware rejected the blob")
	})
}
