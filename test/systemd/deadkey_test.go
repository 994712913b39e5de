// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"os"
	"testing"

	"imxcrypt/test/vm"
)

// systemd unmounts a volume before it locks it. A key that the chip has lost must be
// restored before that, because unmounting writes.
func TestALostKeyIsGivenAgainBeforeUnmounting(t *testing.T) {
	t.Parallel()
	if os.Getenv("IMXCRYPT_SOAK") == "" {
		t.Skip("NOT TESTED: a minute, by make soak only (IMXCRYPT_SOAK=1); TestLostKeys of the scenarios does the rest without systemd")
	}
	f := files{"/etc/imxcrypt/imxcrypt.yaml": text("volumes:\n  - {name: data, device: /dev/vdb, wrap: ecb, mount: {path: /data, options: [commit=900]}, timeout: 10m}\n")}
	f.enabled("cryptsetup.target", "imxcrypt-provision@data.service", "imxcrypt-provision@.service")
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.AMD64, Root: "/dev/vda", SimCAAM: &vm.SimCAAM{Closed: true},
		Disks: []*vm.Disk{newRoot(t, vm.AMD64, f), vm.NewDisk(t, 12<<20)},
	})}
	b.mustAwait("multi-user.target")
	b.MustSh("echo 0 >/proc/sys/vm/dirty_writeback_centisecs; findmnt /data; systemctl is-active imxcrypt-key@data.service")
	for range 2 {
		b.MustSh("head -c 300000 /dev/urandom >/data/file; sync -f /data; sha256sum /data/file >/run/sum; echo dirty >/data/dirty")
		b.MustSh("echo 1 >/sys/module/imxcrypt_simcaam/parameters/jdkek_reset; systemctl stop data.mount; ! findmnt /data")
		b.has(b.journal("-b", "-u", "imxcrypt-key@data.service"), "data: lost key restored")
		b.MustSh("systemctl start data.mount && sha256sum -c /run/sum && cat /data/dirty && systemctl is-active imxcrypt-key@data.service")
	}
	// The whole volume: first the mount is removed, then the mapping.
	b.MustSh("echo 1 >/sys/module/imxcrypt_simcaam/parameters/jdkek_reset; systemctl stop imxcrypt@data.service; ! findmnt /data; ! test -e /dev/mapper/data")
	b.MustSh("systemctl start data.mount && sha256sum -c /run/sum && umount /data && e2fsck -fn /dev/mapper/data")
}
