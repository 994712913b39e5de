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

// A partition grows under a volume in use. The volume and its filesystem take the
// space, and the files are unchanged; the same when the volume is opened with grow:
// true.
func TestResize(t *testing.T) {
	eachBoard(t, func(t *testing.T, b board) {
		kinds := []string{"ext4"}
		if b.goarch == "amd64" || soak() {
			kinds = append(kinds, "xfs", "btrfs")
		}
		var disks []*vm.Disk
		for range kinds {
			disks = append(disks, vm.NewDisk(t, 1<<30))
		}
		m := b.start(t, disks...)
		var device string
		configure := func(fstype string, grow bool) {
			m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(fmt.Sprintf("volumes:\n  - {name: data, device: /dev/mapper/part, filesystem: %s, mount: /data, grow: %v}\n", fstype, grow)))
		}
		partition := func(mib int) string {
			return fmt.Sprintf("echo 0 %d linear %s 0", mib<<11, device)
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
		for i, fstype := range kinds {
			t.Log(fstype)
			device = "/dev/vd" + string(rune('a'+i))
			m.MustSh(partition(400) + " | dmsetup create part")
			configure(fstype, false)
			b.expect(t, m.Run("imxcrypt", "provision", "data"), 0, "mounted on /data")
			m.MustSh("dd if=/dev/urandom of=/data/file bs=1M count=8 conv=fsync 2>/dev/null; sha256sum /data/file > /tmp/sum")
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
