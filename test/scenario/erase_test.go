// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// Factory reset: erase destroys the key, a backup of the header still opens the volume,
// and provision makes a new volume in one step.
func TestEraseAndFactoryReset(t *testing.T) {
	longScenario(t, func(t *testing.T, b board) {
		disk := vm.NewDisk(t, 64<<20)
		m := b.start(t, disk)
		configure := func() {
			m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(oneVolume))
			m.MustSh("mkdir -p /data")
		}
		configure()
		b.expect(t, m.Run("imxcrypt", "provision", "data"), 0, "mounted on /data")
		m.MustSh("echo 'the quick brown fox' > /data/fox && sync")
		b.expect(t, m.Run("imxcrypt", "header", "check", "/dev/vda"), 0, "imxcrypt volume: ready")
		b.expect(t, m.Run("imxcrypt", "header", "backup", "data", "/backup"), 0, "destroy it when you erase")
		b.expect(t, m.Run("imxcrypt", "header", "backup", "data", "/backup"), 6, "exists")

		t.Log("cryptsetup's luksErase destroys nothing; only ours does")
		m.MustSh("cryptsetup luksErase -q /dev/vda")
		b.expect(t, m.Run("imxcrypt", "verify", "data"), 0, "this chip opens it")
		b.expect(t, m.Run("imxcrypt", "erase", "data"), 2, "not confirmed")
		b.expect(t, m.Run("imxcrypt", "erase", "--dry-run", "data"), 0, "would")
		b.expect(t, m.Run("imxcrypt", "erase", "--yes", "-v", "data"), 0, "what remains")
		b.expect(t, m.Run("imxcrypt", "erase", "--yes", "data"), 0, "already")
		b.expect(t, m.Run("imxcrypt", "unlock", "data"), 6, "was erased on")
		b.expect(t, m.Run("imxcrypt", "header", "check", "/dev/vda"), 8, "magic")
		if area := m.Get("/dev/vda")[:1<<20]; strings.Contains(string(area), "LUKS") || strings.Contains(string(area), "imxcrypt-check") {
			t.Fatal("something of the header is left")
		}

		t.Log("a header backup opens it again, and that is said")
		b.expect(t, m.Run("imxcrypt", "header", "restore", "data", "/backup"), 0, "restored")
		b.expect(t, m.Run("imxcrypt", "unlock", "--mount", "data"), 0, "mounted")
		if got := m.MustSh("cat /data/fox"); got != "the quick brown fox\n" {
			t.Fatalf("the file came back as %q", got)
		}

		b.expect(t, m.Run("imxcrypt", "erase", "--yes", "data"), 0, "erased")
		b.expect(t, m.Run("imxcrypt", "provision", "data"), 0, "mounted on /data")
		b.expect(t, m.Run("imxcrypt", "header", "restore", "data", "/backup", "--yes", "--force"), 6, "another volume")
		m.MustSh("test ! -e /data/fox && echo new > /data/new && sync")
		m.Restart()
		configure()
		b.expect(t, m.Run("imxcrypt", "boot"), 0, "mounted on /data")
		if got := m.MustSh("cat /data/new"); got != "new\n" {
			t.Fatalf("%q", got)
		}
	})
}
