// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// blackVolumes has a volume of each wrap, and one whose key the same CAAM seals through
// the kernel's own trusted keys.
const blackVolumes = `volumes:
  - {name: data, device: /dev/vda, source: caam, wrap: ccm, mount: {path: /data, options: [noatime]}}
  - {name: logs, device: /dev/vdb, source: caam, wrap: ecb, mount: {path: /logs, options: [noatime]}}
  - {name: more, device: /dev/vdc, source: trusted, mount: {path: /more, options: [noatime]}}
`

// The main job with black keys that a CAAM makes, opens and uses through its jobs:
// provisioned, unlocked after a power cycle, given another key in use, taken through
// sleeps, and not opened by another chip or in another state.
func TestVolumesWithBlackKeysOfACAAM(t *testing.T) {
	t.Parallel()
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.ARM64, Mainline: &vm.Mainline{Keys: vm.CAAM, Keygen: true},
		Disks:    []*vm.Disk{vm.NewDisk(t, 24<<20), vm.NewDisk(t, 12<<20), vm.NewDisk(t, 12<<20)},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "arm64"),
	})}
	b.configure(blackVolumes)
	b.MustSh("imxcrypt provision --all && for d in data logs more; do head -c 1048576 /dev/urandom >/$d/file; done; sha256sum /data/file /logs/file /more/file >/more/sums; sync")
	check := func(when string) {
		t.Helper()
		if r := b.Sh("echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /more/sums && touch /data/written /logs/written && sync"); r.Code != 0 {
			t.Errorf("%s: %v", when, r)
		}
	}
	before := b.jobs()
	check("provisioned")
	if after := b.jobs(); after == before {
		t.Errorf("the CAAM has done nothing: %d jobs", after)
	}
	b.says("dmsetup table data", 0, "capi:tk(cbc(aes))-plain64 :64:logon:")

	b.Restart()
	b.configure(blackVolumes)
	b.MustSh("imxcrypt boot")
	check("after a power cycle")
	b.plugPulledInARotation(blackVolumes)
	check("after the plug was pulled in a rotation")
	b.MustSh("imxcrypt rotate --resume-only data && imxcrypt rotate logs")
	check("with other keys")

	b.blackKeysSleep(check)
	b.MustSh("imxcrypt verify --all && imxcrypt lock --all && imxcrypt unlock --mount --all")
	check("unlocked again")
	b.MustSh("imxcrypt lock --all")

	const rejected = "the hardware rejected the blob: made by another chip or in another security state, or damaged"
	for _, other := range []vm.Mainline{
		{Keys: vm.CAAM, Keygen: true, OTPMK: "another chip"},
		{Keys: vm.CAAM, Keygen: true, State: vm.NonSecure},
	} {
		b.Restart(func(c *vm.Config) { c.Mainline = &other })
		b.configure(blackVolumes)
		for _, name := range []string{"data", "logs"} {
			b.says("imxcrypt unlock "+name, 3, rejected, "opens on the board it was made on", "the chip was closed (or opened again) since")
			b.MustSh("! test -e /dev/mapper/" + name)
		}
	}
}

// blackKeysSleep takes the volumes through a sleep that imxcrypt controls, and through
// one that it does not control.
func (b board) blackKeysSleep(check func(when string)) {
	b.t.Helper()
	if r := b.suspend(vm.CAAM, "imxcrypt", "sleep", "suspend"); r.Code != 0 || !strings.Contains(r.Stdout, "awake again; in use as before: data, logs, more") {
		b.t.Errorf("imxcrypt sleep suspend: %v", r)
	}
	check("after imxcrypt sleep suspend")

	b.suspend(vm.CAAM, "sh", "-c", "echo freeze >/sys/power/state")
	b.says("imxcrypt status data", 3, "keyless")
	if r := b.Sh("dd if=/dev/mapper/data of=/dev/null bs=64k count=1 iflag=direct"); r.Code == 0 {
		b.t.Errorf("a stale key is not noticed with CCM: %v", r)
	}
	b.says("imxcrypt sleep resume", 0, "data: lost key restored", "logs: lost key restored", "more: no key is lost")
	check("after a suspend without imxcrypt")
}

// jobs returns how many jobs the CAAM has done.
func (b board) jobs() int {
	b.t.Helper()
	stats := string(b.QMP("qom-get", map[string]string{"path": "/machine/fsl-caam", "property": "stats"}))
	found := regexp.MustCompile(`jobs (\d+)`).FindStringSubmatch(stats)
	if found == nil {
		b.t.Fatalf("the CAAM's counters: %s", stats)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}
