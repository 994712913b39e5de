// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// A partition grows under a volume in use: it and its filesystem take the space, with
// the files as they were; once more when it is opened, with grow: true.
func TestResize(t *testing.T) {
	eachBoard(t, func(t *testing.T, b board) {
		disk := vm.NewDisk(t, 1<<30)
		m := b.start(t, disk)
		configure := func(fstype string, grow bool) {
			m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(fmt.Sprintf("volumes:\n  - {name: data, device: /dev/mapper/part, filesystem: %s, mount: /data, grow: %v}\n", fstype, grow)))
		}
		partition := func(mib int) string {
			return fmt.Sprintf("echo 0 %d linear /dev/vda 0", mib<<11)
		}
		grow := func(mib int) {
			m.MustSh(partition(mib) + " | dmsetup reload part && dmsetup suspend part && dmsetup resume part")
		}
		size := func() int {
			n, err := strconv.Atoi(strings.TrimSpace(m.MustSh("stat -f -c %b /data")))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		m.MustSh("mkdir -p /data")
		for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
			t.Log(fstype)
			m.MustSh("dd if=/dev/zero of=/dev/vda bs=1M count=1024 conv=fsync 2>/dev/null; " + partition(400) + " | dmsetup create part")
			configure(fstype, false)
			b.expect(t, m.Run("imxcrypt", "provision", "data"), 0, "mounted on /data")
			m.MustSh("dd if=/dev/urandom of=/data/file bs=1M count=64 conv=fsync 2>/dev/null; sha256sum /data/file > /tmp/sum")
			before := size()
			b.expect(t, m.Run("imxcrypt", "resize", "data"), 0, "(already)")
			grow(600)
			b.expect(t, m.Run("imxcrypt", "resize", "--size", "100MiB", "data"), 6, "never shrinks")
			b.expect(t, m.Run("imxcrypt", "resize", "--json", "data"), 0, `"filesystem_pending":false`)
			after := size()
			if after*10 < before*14 {
				t.Fatalf("%s of %d blocks has %d now", fstype, before, after)
			}
			m.MustSh("sha256sum -c /tmp/sum")
			b.expect(t, m.Run("imxcrypt", "resize", "data"), 0, "(already)")

			b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "locked")
			grow(800)
			configure(fstype, true)
			b.expect(t, m.Run("imxcrypt", "boot"), 0, "mounted on /data")
			if last := size(); last*10 < after*12 {
				t.Fatalf("%s of %d blocks has %d when it is opened", fstype, after, last)
			}
			m.MustSh("sha256sum -c /tmp/sum")
			b.expect(t, m.Run("imxcrypt", "verify", "data"), 0, "")
			b.expect(t, m.Run("imxcrypt", "rotate", "--init-only", "data"), 0, "")
			grow(900)
			b.expect(t, m.Run("imxcrypt", "resize", "data"), 5, "rotation")
			b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "locked")
			m.MustSh("dmsetup remove part")
		}
	})
}
