// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"strings"
	"testing"
)

// Our LUKS2 header has two copies of 16 KiB, each a binary header of 4096 bytes
// followed by the JSON area (LUKS2 On-Disk Format Specification 1.1, 2).
const (
	primary, secondary = 0, 16 << 10
	jsonArea           = 4096
)

// flip changes one bit of a byte of the device.
func (x *bench) flip(device string, at int) {
	x.t.Helper()
	x.MustSh(fmt.Sprintf(`v=$(od -An -tu1 -j %[2]d -N 1 %[1]s); printf "\\$(printf %%o $((v ^ 1)))" | dd of=%[1]s bs=1 seek=%[2]d conv=notrunc,fsync 2>&1`, device, at))
}

func TestDamagedHeaders(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		device := x.provisioned("disk")
		header := func() string { return x.MustSh("head -c 32768 " + device + " | sha256sum") }
		for _, c := range []struct {
			name string
			at   int
		}{
			{"first copy, magic", primary}, {"first copy, checksum", primary + 0x1c0}, {"first copy, JSON", primary + jsonArea + 100},
			{"second copy, magic", secondary}, {"second copy, JSON", secondary + jsonArea + 100},
		} {
			t.Run(c.name, func(t *testing.T) {
				x := x.in(t)
				x.flip(device, c.at)
				x.expect(1, "locked", "status")
				x.expect(0, "one copy of the header is damaged", "verify", "data")
				x.expect(0, "damaged header copy repaired", "unlock", "-v", "--mount", "data")
				x.fox()
				x.expect(0, "locked", "lock", "data")
				if r := x.expect(0, "this chip opens it", "verify", "data"); strings.Contains(r.Stderr, "damaged") {
					t.Error("it is not repaired")
				}
				x.MustRun("cryptsetup", "luksDump", device)
			})
		}
		t.Run("both copies", func(t *testing.T) {
			x := x.in(t)
			x.flip(device, primary+jsonArea+100)
			x.flip(device, secondary+jsonArea+200)
			broken := header()
			for _, args := range [][]string{{"unlock", "data"}, {"verify", "data"}, {"boot"}, {"provision", "data"}, {"provision", "--wipe", "--yes", "data"}, {"status"}} {
				x.expect(8, "data", args...)
			}
			if header() != broken {
				t.Error("a damaged header was changed")
			}
			x.flip(device, primary+jsonArea+100)
			x.expect(0, "mounted on", "unlock", "--mount", "data")
			x.fox()
			x.expect(0, "locked", "lock", "data")
		})
		t.Run("the check area", func(t *testing.T) {
			// On the fast path the filesystem proves the key; verify reads the check
			// area itself.
			x := x.in(t)
			x.flip(device, 32<<10+1000)
			x.expect(3, "the check says", "verify", "data")
			x.expect(0, "mounted on", "unlock", "--mount", "data")
			x.expect(0, "locked", "lock", "data")
			x.flip(device, 32<<10+1000)
			x.expect(0, "this chip opens it", "verify", "data")
		})
		t.Run("the filesystem's superblock", func(t *testing.T) {
			x := x.in(t)
			x.flip(device, 2<<20+1024+8)
			x.expect(6, "the key is right", "unlock", "--mount", "data")
			x.expect(6, "the key is right", "verify", "data")
			x.expect(0, "unlocked", "unlock", "--for-repair", "data")
			x.expect(0, "locked", "lock", "data")
			x.flip(device, 2<<20+1024+8)
			x.expect(0, "mounted on", "unlock", "--mount", "data")
			x.fox()
		})
		t.Run("another name, and no header", func(t *testing.T) {
			x := x.in(t)
			x.configureText(x.volume("records", device, "mount: "+x.dir+"/mnt"))
			x.expect(5, "in use: mapped as data", "rename", "data", "records")
			x.configure(device)
			x.expect(0, "locked", "lock", "data")
			x.configureText(x.volume("records", device, "mount: "+x.dir+"/mnt"))
			x.expect(6, "name is", "unlock", "records")
			x.expect(0, "renamed from data", "rename", "data", "records")
			x.expect(0, "(already)", "rename", "data", "records")
			x.expect(0, "mounted on", "unlock", "--mount", "records")
			x.fox()
			x.expect(0, "locked", "lock", "records")
			x.MustSh("cryptsetup luksDump " + device + " | grep -q '^Label:.*records'")
			x.expect(0, "", "header", "backup", "records", x.dir+"/backup")
			x.MustSh("head -c 1048576 /dev/zero | dd of=" + device + " conv=notrunc,fsync 2>&1")
			x.expect(0, "", "header", "restore", "records", x.dir+"/backup")
			x.expect(0, "mounted on", "unlock", "--mount", "records")
			x.fox()
			x.expect(0, "locked", "lock", "records")
		})
	})
}

// The configuration decides which volume is on which device. Headers that were swapped,
// copied or assembled from two volumes are refused.
func TestSwappedHeaders(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		first, second := x.loop("first"), x.loop("second")
		two := func(first, second string) {
			x.MustSh("mkdir -p " + x.dir + "/a " + x.dir + "/b")
			x.configureText(x.volume("a", first, "mount: "+x.dir+"/a") + x.volume("b", second, "mount: "+x.dir+"/b"))
		}
		two(first, second)
		x.expect(0, "b: mounted on", "provision", "--all")
		x.expect(0, "b: locked", "lock", "--all")

		two(second, first)
		x.expect(6, `name is "b" in the header and "a" in the configuration`, "unlock", "--mount", "a")
		x.expect(6, "b", "boot")
		two(first, second)

		t.Log("the header of one over the other's data")
		x.MustSh("dd if=" + first + " of=" + x.dir + "/kept bs=1M count=2 2>&1; dd if=" + second + " of=" + first + " bs=1M count=2 2>&1; sync")
		x.configureText(x.volume("b", first, "mount: "+x.dir+"/b"))
		r := x.imxcrypt("unlock", "--mount", "b")
		if r.Code != 6 && r.Code != 3 {
			t.Errorf("expected a refusal: %v", r)
		}
		t.Log(r)
		x.MustSh("dd if=" + x.dir + "/kept of=" + first + " bs=1M count=2 conv=notrunc 2>&1; sync")
		two(first, second)
		x.expect(0, "b: mounted on", "boot")
		x.expect(0, "b: locked", "lock", "--all")

		t.Log("another uuid than the configuration pins")
		x.configureText(x.volume("a", first, "mount: "+x.dir+"/a", "uuid: 12345678-1234-4234-8234-123456789abc"))
		x.expect(6, "uuid is", "unlock", "a")
	})
}
