// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"strings"
	"time"
)

// rotate checks the rotation's unit. If it is killed, it is started again. Stopping the
// volume stops it first, and opening the volume starts it, also in the boot after a
// power cut. It is slowed down so that each of these finds it halfway.
func (b board) rotate() {
	b.t.Helper()
	b.t.Log("a rotation in the background is started again when it was killed")
	const dropIn = "/run/systemd/system/imxcrypt-rotate@data.service.d"
	slowly := func() {
		b.MustSh("mkdir -p " + dropIn + "; printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/imxcrypt rotate --resume-only --rate-limit 256KiB %%I\\n' >" + dropIn +
			"/slowly.conf; systemctl daemon-reload")
	}
	slowly()
	b.MustRun("imxcrypt", "rotate", "--init-only", "data")
	b.MustRun("systemctl", "start", "imxcrypt-rotate@data")
	b.moves("the rotation that was started")
	b.MustRun("systemctl", "kill", "-s", "KILL", "imxcrypt-rotate@data")
	b.expect("until systemctl show -P NRestarts imxcrypt-rotate@data | grep -qv '^0'; do sleep 0.3; done; until systemctl --quiet is-active imxcrypt-rotate@data; do sleep 0.3; done; echo active", "active")
	b.moves("the rotation that was killed")
	b.expect("cat /data/kept", "a year of work")

	b.t.Log("stopping the volume stops its rotation first, starting it starts that, too")
	b.MustRun("systemctl", "stop", "imxcrypt@data")
	b.expect("systemctl is-active imxcrypt@data imxcrypt-rotate@data; findmnt /data; udevadm settle; ls /dev/mapper", "inactive\ninactive\ncontrol\nlogs\npages")
	b.eventually("paused", "-u", "imxcrypt-rotate@data")
	b.MustRun("systemctl", "start", "user-of-data")
	b.expect("cat /data/kept", "a year of work")
	b.expect("until systemctl --quiet is-active imxcrypt-rotate@data; do sleep 0.3; done; systemctl is-active imxcrypt-rotate@data", "active")
	b.moves("the rotation of the volume that was started")

	b.t.Log("it continues in the boot after a power cut")
	_, before, _ := b.Rotation("data")
	b.Restart()
	b.mustAwait("multi-user.target")
	b.expect("cat /data/kept", "a year of work")
	b.ends("the rotation of before the power cut")
	b.eventually("rotated, generation 2", "-u", "imxcrypt-rotate@data")
	if generation, done, total := b.Rotation("data"); generation != 2 || total != 0 {
		b.t.Errorf("generation %d, %d of %d bytes after %d before the power cut", generation, done, total, before)
	}
	b.expect("imxcrypt verify data >/dev/null && cat /data/kept", "a year of work")
	b.noKeyLeft()
}

// moves waits until a rotation has made progress.
func (b board) moves(what string) {
	b.t.Helper()
	_, before, _ := b.Rotation("data")
	for range 200 {
		_, now, total := b.Rotation("data")
		if total == 0 {
			break
		}
		if now > before {
			return
		}
	}
	b.t.Fatalf("%s does not move:\n%s", what, b.journal("-b", "-u", "imxcrypt-rotate@data"))
}

// ends waits until a rotation ends, as long as it makes progress.
func (b board) ends(what string) {
	b.t.Helper()
	for last, still := int64(-1), 0; still < 200; still++ {
		_, done, total := b.Rotation("data")
		if total == 0 {
			return
		}
		if done > last {
			last, still = done, 0
		}
		time.Sleep(300 * time.Millisecond)
	}
	b.t.Fatalf("%s does not move:\n%s", what, b.journal("-b", "-u", "imxcrypt-rotate@data"))
}

// unplugged removes the device below an open volume: its service stops, together with
// what depends on it. When the device is back, so is the volume.
func (b board) unplugged() {
	b.t.Helper()
	b.t.Log("a device that is unplugged in use takes its volume's service with it, and nothing else")
	driver := "/sys/bus/virtio/drivers/virtio_blk/"
	name := strings.TrimSpace(b.MustSh("basename $(realpath /sys/block/vdd/device)"))
	b.expect("cat /srv/spare/kept", "for a rainy day")
	b.MustSh("echo " + name + " >" + driver + "unbind")
	b.expect("until ! systemctl --quiet is-active imxcrypt@spare; do sleep 0.3; done; findmnt /srv/spare; systemctl is-active imxcrypt@data imxcrypt@logs", "active\nactive")
	b.t.Logf("the journal:\n%s", b.journal("-b", "-u", "imxcrypt@spare", "-u", "srv-spare.mount"))
	b.MustSh("echo " + name + " >" + driver + "bind")
	b.MustSh("for i in $(seq 100); do systemctl start srv-spare.mount && exit; sleep 1; done; exit 1")
	b.expect("cat /srv/spare/kept", "for a rainy day")
}
