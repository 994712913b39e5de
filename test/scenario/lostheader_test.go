// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"strings"
	"testing"
)

// A lost header is distinguished from one that never existed, by the board's record of
// the volume, or without a record by the data after the header.
func TestAHeaderThatIsGone(t *testing.T) {
	benches(t, boards()[:1], func(t *testing.T, b board) {
		x := b.bench(t)
		device := x.provisioned("disk")
		x.expect(0, "written", "header", "backup", "data", x.dir+"/backup")
		for _, traces := range []string{"was made on " + device, "looks like ciphertext"} {
			x.MustSh("dd if=/dev/zero of=" + device + " bs=1M count=1 conv=notrunc,fsync 2>&1")
			x.expect(1, "header-missing", "status")
			x.expect(8, traces, "unlock", "data")
			x.expect(8, traces, "boot")
			x.expect(6, "header restore", "provision", "data")
			x.expect(2, "would still open", "provision", "--wipe", "data")
			x.expect(0, "restored", "header", "restore", "data", x.dir+"/backup")
			x.expect(0, "mounted on", "unlock", "--mount", "data")
			x.fox()
			x.expect(0, "mounted", "status")
			x.expect(0, "locked", "lock", "data")
			x.MustSh("rm -f /var/lib/imxcrypt/volumes/data.json")
		}
	})
}

// A partition that grew is used as before, also by a rotation. A partition that shrank
// is not reported as a damaged header.
func TestAPartitionThatGrewOrShrank(t *testing.T) {
	benches(t, boards()[:1], func(t *testing.T, b board) {
		x := b.bench(t)
		device := x.provisioned("disk")
		x.MustSh("truncate -s 40M " + x.image("disk") + "; losetup -c " + device)
		x.expect(0, "mounted on", "unlock", "--mount", "data")
		x.expect(0, "has grown since the volume was made: 32 MiB", "status")
		for range 2 {
			x.expect(0, "generation", "rotate", "data")
		}
		x.fox()
		x.expect(0, "locked", "lock", "data")
		if r := x.Sh("cmp -n 33554432 " + x.image("disk") + " /dev/zero 8388608 0"); r.Code != 0 {
			t.Errorf("a rotation used what the partition has grown by: %v", r)
		}

		x.MustSh("losetup -d " + device + "; losetup --sizelimit 7M " + device + " " + x.image("disk"))
		for _, args := range [][]string{{"status"}, {"unlock", "data"}, {"boot"}, {"verify", "data"}} {
			if r := x.expect(4, "smaller than when the volume was made", args...); strings.Contains(r.Stderr, "damaged") {
				t.Errorf("%q speaks of damage: %s", args, r.Stderr)
			}
		}
		x.MustSh("losetup -d " + device + "; losetup " + device + " " + x.image("disk"))
		x.expect(0, "mounted on", "unlock", "--mount", "data")
		x.fox()
		x.expect(0, "locked", "lock", "data")
	})
}
