// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// An open CAAM seals keys with a test key that all open chips share. A volume is made
// with it only if the configuration allows that, and opens on any open chip but on no
// closed one. A closed chip's volume does not open on an open chip.
func TestAVolumeOnAnOpenCAAM(t *testing.T) {
	t.Parallel()
	const (
		refused  = "this chip is open: its key is sealed with the test master key that all open chips share"
		warned   = "every open chip can open this volume, and none can once it is closed"
		rejected = "the trust source caam rejected the sealed key: made by another chip or in another security state, or damaged"
		remedy   = "the chip was closed (or opened again) since"
	)
	allowed := strings.Replace(trustedVolume, "source: trusted\n", "source: trusted\n    allow_open_state: true\n", 1)
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.ARM64, Mainline: &vm.Mainline{Keys: vm.CAAM, State: vm.NonSecure}, Disks: []*vm.Disk{vm.NewDisk(t, 32<<20)},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "arm64"),
	})}
	chip := func(otpmk string, state vm.SecurityState, config string) {
		b.Restart(func(c *vm.Config) { c.Mainline.OTPMK, c.Mainline.State = otpmk, state })
		b.configure(config)
	}
	b.configure(trustedVolume)
	b.says("imxcrypt provision data", 6, refused, "in a laboratory set allow_open_state: true")
	b.MustSh("test $(head -c 1048576 /dev/vda | tr -d '\\0' | wc -c) = 0")
	b.configure(allowed)
	b.says("imxcrypt provision data", 0, warned, "data: mounted on /data")
	b.MustSh("echo 'in the laboratory' >/data/note && sync")
	b.says("imxcrypt status --json data", 0, `"security_state":"open"`)

	chip("another chip", vm.NonSecure, allowed)
	b.says("imxcrypt unlock --mount data && cat /data/note", 0, "the volume was made while the chip was open", "in the laboratory")
	b.MustSh("imxcrypt lock data")
	b.configure(trustedVolume)
	b.says("imxcrypt unlock data", 6, "the volume was made while the chip was open")

	chip("", vm.Trusted, allowed)
	b.says("imxcrypt unlock data", 3, rejected, remedy)
	b.MustSh("imxcrypt erase --yes data")
	b.configure(trustedVolume)
	b.says("imxcrypt provision data", 0, "data: mounted on /data")

	chip("", vm.NonSecure, trustedVolume)
	b.says("imxcrypt unlock data", 3, rejected, remedy)
	b.MustSh("! test -e /dev/mapper/data")
}

// An open DCP neither makes nor opens keys: trusted.ko does not load, and so neither
// does dm-crypt.
func TestAVolumeOnAnOpenDCP(t *testing.T) {
	t.Parallel()
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.ARM64, Mainline: &vm.Mainline{Keys: vm.DCP}, Disks: []*vm.Disk{vm.NewDisk(t, 32<<20), vm.NewDisk(t, 32<<20)},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "arm64"),
	})}
	b.configure(trustedVolume)
	b.MustSh("imxcrypt provision data && echo 'of a closed chip' >/data/note && imxcrypt lock data")

	b.Restart(func(c *vm.Config) { c.Mainline.State, c.Mainline.Manual = vm.NonSecure, true })
	b.configure(trustedVolume)
	if said := b.modprobe("trusted source=dcp"); !strings.Contains(said, "Invalid argument") {
		t.Errorf("modprobe trusted: %q", said)
	}
	b.says("imxcrypt unlock data", 4, "this kernel has no trust source", "On an open chip the DCP seals no keys: close the chip")
	b.says("imxcrypt doctor --json", 4, "the chip is open, and the DCP of an open chip seals no keys")
	b.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(strings.Replace(trustedVolume, "/dev/vda", "/dev/vdb", 1)))
	b.says("imxcrypt provision data", 6, "this chip is open")
	b.MustSh("test $(head -c 1048576 /dev/vdb | tr -d '\\0' | wc -c) = 0")

	b.Restart(func(c *vm.Config) { c.Mainline.State, c.Mainline.Manual = vm.Trusted, false })
	b.configure(trustedVolume)
	b.says("imxcrypt boot && cat /data/note", 0, "of a closed chip")
}
