// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import "testing"

// A full /run, with no space for content or for files, does not stop boot, unlock or
// lock: the program writes only messages there.
func TestAFullRunStopsNothing(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		for name, fill := range map[string]string{
			"no file can be made":    "i=0; while touch /run/fill$i 2>/dev/null; do i=$((i+1)); done",
			"nothing can be written": "mkdir -m 700 /run/imxcrypt; dd if=/dev/zero of=/run/fill bs=4k 2>/dev/null || true",
			"our folder is full":     "mkdir -m 700 /run/imxcrypt; i=0; while touch /run/fill$i 2>/dev/null; do i=$((i+1)); done",
		} {
			t.Run(name, func(t *testing.T) {
				x := b.bench(t)
				x.provisioned("disk")
				x.MustSh("mount -t tmpfs -o size=64k,nr_inodes=16,mode=0755 tmpfs /run; " + fill + "; ! sh -c 'echo more >/run/imxcrypt/more'")
				defer x.MustSh("umount -l /run")
				x.expect(0, "mounted on", "unlock", "--mount", "data")
				x.expect(0, "already", "unlock", "--mount", "data")
				x.expect(0, "mounted", "status", "data")
				x.expect(0, "", "lock", "data")
				x.expect(0, "mounted on", "boot")
				x.expect(0, "", "lock", "--all")
				x.expect(0, "", "verify", "data")
			})
		}
	})
}
