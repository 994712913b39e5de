// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"imxcrypt/test/vm"
)

const adoptedVolume = `volumes:
  - name: data
    device: /dev/vda
    header: /var/lib/imxcrypt/data.header
    wrap: %s
    cipher: %s
    sector_size: %d
    mount: {path: /data}
`

// byHand opens a volume as the caam-keygen documentation describes, runs the given
// commands on /mnt, and closes the volume again. It imports the black key from the
// blob, so it works after each power cycle.
const byHand = `
set -e
rm -f /run/black
imxcrypt key import /caam/data.bb --out /run/black >/dev/null
cat > /run/byhand <<'END'
set -e
id=$(keyctl padd logon logkey: @s < /run/black)
dmsetup create old --table "0 $(blockdev --getsz /dev/vda) crypt %[1]s :$(stat -c %%s /run/black):logon:logkey: 0 /dev/vda 0 1 sector_size:%[2]d"
keyctl unlink $id @s >/dev/null
dmsetup table old > /run/table
[ -z "$FIRST" ] || mkfs.ext4 -q -O metadata_csum -L old /dev/mapper/old
mkdir -p /mnt
mount $OPTIONS /dev/mapper/old /mnt
%[3]s
umount /mnt
dmsetup remove old
END
keyctl session - sh /run/byhand
`

// A volume of the old recipe is adopted, works like any other, and still opens the old
// way. Adoption does not change a byte of the device.
func TestAdopt(t *testing.T) {
	recipes := map[string]struct {
		wrap, cipher string
		sector       int
		wrong        string // a cipher line that does not match
	}{
		"amd64": {"ecb", "capi:tk(cbc(aes))-plain", 512, "capi:tk(cbc(aes))-eboiv --sector-size 4096"},
		"arm64": {"ccm", "capi:tk(cbc(aes))-plain64", 4096, "capi:tk(cbc(aes))-plain --sector-size 512"},
		"arm":   {"ecb", "capi:tk(cbc(aes))-eboiv", 4096, "capi:tk(cbc(aes))-plain64 --sector-size 2048"},
	}
	longScenario(t, func(t *testing.T, b board) {
		c := recipes[b.goarch]
		disk := vm.NewDisk(t, 32<<20)
		m := b.start(t, disk)
		recipe := func(what string) string { return fmt.Sprintf(byHand, c.cipher, c.sector, what) }
		configure := func() {
			m.Put("/etc/imxcrypt/imxcrypt.yaml", fmt.Appendf(nil, adoptedVolume, c.wrap, c.cipher, c.sector))
			m.MustSh("mkdir -p /data")
		}
		sum := func() [32]byte { m.MustSh("sync"); return sha256.Sum256(m.Get("/dev/vda")) }

		configure()
		m.MustRun("imxcrypt", "key", "create", "data", "--dir", "/caam", "--wrap", c.wrap)
		m.MustSh("FIRST=yes\nexport FIRST\n" + recipe("echo 'the quick brown fox' > /mnt/fox"))
		before := sum()
		b.expect(t, m.Run("imxcrypt", "unlock", "data"), 8, "imxcrypt adopt`")

		t.Log("wrong parameters are helped, and nothing is written")
		b.expect(t, m.Sh("imxcrypt adopt data --blob /caam/data.bb --cipher "+quoteFirst(c.wrong)), 6,
			fmt.Sprintf("sector size %d", c.sector))
		b.expect(t, m.Run("imxcrypt", "adopt", "data", "--blob", "/caam/data.bb", "--dry-run"), 0, "would write a header")
		if r := m.Sh("test -e /var/lib/imxcrypt/data.header"); r.Code == 0 {
			t.Fatal("a dry run wrote the header")
		}
		b.expect(t, m.Sh(`imxcrypt adopt -v data --blob /caam/data.bb --table "$(cat /run/table)"`), 0, "adopted")
		b.expect(t, m.Run("imxcrypt", "adopt", "data", "--blob", "/caam/data.bb"), 0, "already")
		b.expect(t, m.Run("imxcrypt", "verify", "data"), 0, "this chip opens it")
		if sum() != before {
			t.Fatal("adopting changed the device")
		}
		header, blob := m.Get("/var/lib/imxcrypt/data.header"), m.Get("/caam/data.bb")
		b.expect(t, m.Run("imxcrypt", "header", "check", "/var/lib/imxcrypt/data.header"), 0, "imxcrypt volume: ready")

		m.Restart()
		configure()
		m.Put("/var/lib/imxcrypt/data.header", header)
		m.Put("/caam/data.bb", blob)
		b.expect(t, m.Run("imxcrypt", "boot"), 0, "mounted on /data")
		if got := m.MustSh("cat /data/fox"); got != "the quick brown fox\n" {
			t.Fatalf("the file came back as %q", got)
		}
		m.MustSh("echo new > /data/new")
		b.expect(t, m.Run("imxcrypt", "status"), 0, "mounted")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "locked")

		t.Log("the old recipe still opens it, and sees what was written since")
		if got := m.MustSh(recipe("cat /mnt/fox /mnt/new")); !bytes.HasSuffix([]byte(got), []byte("the quick brown fox\nnew\n")) {
			t.Fatalf("the old recipe reads %q", got)
		}
	})
}

// quoteFirst quotes the first word for the shell.
func quoteFirst(s string) string {
	for i := range s {
		if s[i] == ' ' {
			return "'" + s[:i] + "'" + s[i:]
		}
	}
	return "'" + s + "'"
}
