// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"strings"
	"syscall"
	"testing"

	"imxcrypt/test/vm"
)

// A rotation changes the volume to its current configuration, provided that the
// filesystem works with it.
func TestRotationToAnotherConfiguration(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		t.Run("ext4 in use", func(t *testing.T) {
			x := b.bench(t)
			device := x.loop("disk")
			before := []string{"wrap: ecb", "key_size: 16", "cipher: capi:tk(cbc(aes))-plain", "sector_size: 512", "filesystem: {options: [-b, '4096']}"}
			x.configure(device, before...)
			x.expect(0, "mounted on", "provision", "data")
			x.PutFile("/opt/load", vm.BuildProgram(t, "./test/load", b.goarch))
			x.configure(device, "wrap: ccm", "sector_size: 4096")
			x.expect(6, "imxcrypt rotate data", "verify", "data")
			x.expect(0, "would change wrap from ecb to ccm, key_size from 16 to 32, cipher from capi:tk(cbc(aes))-plain to capi:tk(cbc(aes))-plain64, sector_size from 512 to 4096",
				"rotate", "--dry-run", "data")
			load := startLoad(x.Machine, x.dir+"/mnt")
			x.expect(0, "rotated, generation 2", "rotate", "data")
			load.Signal(syscall.SIGTERM)
			if r := load.Wait(); r.Code != 0 {
				t.Fatalf("the load: %v", r)
			}
			if table := x.MustRun("dmsetup", "table", "data"); !strings.Contains(table, "capi:tk(cbc(aes))-plain64") || !strings.Contains(table, "sector_size:4096") {
				t.Fatal(table)
			}
			x.expect(0, "locked", "lock", "data")
			x.powerCycle()
			x.expect(0, "mounted on", "unlock", "--mount", "data")
			if r := x.Run("/opt/load", "-verify", x.dir+"/mnt"); r.Code != 0 {
				t.Fatal(r)
			}
			x.expect(0, "locked", "lock", "data")
			x.configure(device, before...)
			x.expect(0, "rotated, generation 3", "rotate", "data")
			x.expect(0, "mounted on", "unlock", "--mount", "data")
			if r := x.Run("/opt/load", "-verify", x.dir+"/mnt"); r.Code != 0 {
				t.Fatal(r)
			}
		})
		for _, c := range []struct{ name, size, filesystem, says string }{
			{"ext4 with small blocks", "8M", "{options: [-b, '1024']}", "the ext4 filesystem writes in pieces of 1024 bytes"},
			{"xfs with sectors of 512", "320M", "{type: xfs}", "the xfs filesystem writes in pieces of 512 bytes"},
			{"vfat with sectors of 512", "8M", "{type: vfat}", "the vfat filesystem writes in pieces of 512 bytes"},
		} {
			t.Run(c.name, func(t *testing.T) {
				x := b.bench(t)
				x.MustSh("truncate -s " + c.size + " " + x.image("disk"))
				device := x.loop("disk")
				x.configure(device, "sector_size: 512", "filesystem: "+c.filesystem)
				x.expect(0, "mounted on", "provision", "data")
				// The configuration itself refuses mkfs options that contradict it.
				x.configure(device, "sector_size: 4096", "filesystem: "+strings.Replace(c.filesystem, "options: [-b, '1024']", "type: ext4", 1))
				x.expect(6, c.says, "rotate", "data")
				x.configure(device, "sector_size: 512", "filesystem: "+c.filesystem)
				x.expect(0, "generation 1", "verify", "data")
			})
		}
	})
}
