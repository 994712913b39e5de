// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"testing"

	"imxcrypt/test/vm"
)

// A volume of 62 MiB that lost its first superblock is repaired from the backup
// superblock that provision made, and has its files.
func TestSmallVolumeIsRepairedFromItsBackup(t *testing.T) {
	longScenario(t, func(t *testing.T, b board) {
		m := b.start(t, vm.NewDisk(t, 64<<20))
		m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(oneVolume))
		m.MustSh("mkdir -p /data")
		b.expect(t, m.Run("imxcrypt", "provision", "data"), 0, "mounted on /data")
		m.MustSh("echo fox > /data/fox")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "locked")
		b.expect(t, m.Run("imxcrypt", "unlock", "data"), 0, "unlocked")
		m.MustSh("dd if=/dev/urandom of=/dev/mapper/data bs=4096 count=1 conv=notrunc,fsync 2>/dev/null")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "locked")
		b.expect(t, m.Run("imxcrypt", "unlock", "--for-repair", "data"), 0, "")
		m.Sh("e2fsck -fy -b $(( ($(blockdev --getsz /dev/mapper/data) / 8 + 15) / 16 * 8 )) -B 4096 /dev/mapper/data")
		b.expect(t, m.Run("imxcrypt", "unlock", "--mount", "data"), 0, "mounted on /data")
		m.MustSh("grep -q fox /data/fox")
	})
}
