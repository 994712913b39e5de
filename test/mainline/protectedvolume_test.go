// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// protectedVolume is a configuration with protected keys.
func protectedVolume(wrap string) string {
	return strings.Replace(trustedVolume, "source: trusted\n", "source: trusted\n    protected: true\n    wrap: "+wrap+"\n", 1)
}

// changedLine is the line that dm-crypt must have, as the product reports it.
const changedLine = "crypto_alloc_skcipher(ciphermode, 0, 0)"

// boardWith starts a board with the product.
func boardWith(t *testing.T, kernel vm.MainlineKernel, config string) board {
	t.Helper()
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.ARM64, Mainline: &vm.Mainline{Keys: vm.CAAM, Kernel: kernel}, Disks: []*vm.Disk{vm.NewDisk(t, 64<<20), vm.NewDisk(t, 16<<20)},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "arm64"),
	})}
	b.configure(config)
	return b
}

// The main job with a key that only the CAAM sees, on a kernel whose dm-crypt accepts
// its cipher: provisioned, unlocked at boot after a power cycle, used after the CAAM
// has lost its own key, given another key in use, and not opened by another chip.
func TestAVolumeWithAProtectedKey(t *testing.T) {
	soakOnly(t)
	t.Parallel()
	for wrap := range protectedOptions() {
		t.Run(wrap, func(t *testing.T) {
			t.Parallel()
			config := protectedVolume(wrap)
			b := boardWith(t, vm.Linux7Protected, config)
			b.MustSh(`imxcrypt provision data && echo 'meet me at the old oak' >/data/note &&
				dd if=/dev/urandom of=/data/file bs=1M count=16 2>/dev/null && sha256sum /data/file >/data/sum && sync`)
			dump := b.MustSh("dd if=/dev/vda bs=16k count=1 2>/dev/null | strings -n 8")
			for _, says := range []string{`"trust":"caam"`, `"wrap":"` + wrap + `"`} {
				if !strings.Contains(dump, says) {
					t.Errorf("the token does not say %s:\n%s", says, dump)
				}
			}
			if table := b.MustSh("dmsetup table --showkeys data"); !strings.Contains(table, "capi:cbc(paes)-plain64 :84:trusted:") {
				t.Errorf("the table: %s", table)
			}
			if keys := b.MustSh("cat /proc/keys"); strings.Contains(keys, "imxcrypt:") {
				t.Errorf("a key is left in a keyring:\n%s", keys)
			}

			b.overruns("provision", false)

			b.Restart()
			b.configure(config)
			b.MustSh("imxcrypt boot")
			check := func(when string) {
				t.Helper()
				b.MustSh("echo 3 >/proc/sys/vm/drop_caches")
				if r := b.Sh("grep -qx 'meet me at the old oak' /data/note && sha256sum -c /data/sum"); r.Code != 0 {
					t.Errorf("%s: %v", when, r)
				}
			}
			check("after a power cycle")
			b.losePower()
			b.MustSh("cp /data/file /data/copy && mv /data/copy /data/file && sync")
			check("after the CAAM has lost its key")
			b.plugPulledInARotation(config)
			b.losePower()
			check("under two keys, after the CAAM has lost its key")
			b.MustSh("imxcrypt verify data && imxcrypt rotate --resume-only data")
			check("with another key")
			b.overruns("rotate", false)
			b.MustSh("imxcrypt lock data && imxcrypt unlock --mount data")
			check("unlocked again")
			b.MustSh("imxcrypt lock data")

			refused := func(on string, code int, says string, change func(*vm.Config)) {
				t.Helper()
				b.Restart(change)
				b.configure(config)
				sum := b.MustSh("sha256sum /dev/vda")
				if r := b.Sh("imxcrypt unlock --mount data"); r.Code != code || !strings.Contains(r.Stderr, says) {
					t.Errorf("on %s: %v, expected code %d and %q", on, r, code, says)
				}
				b.MustSh("! test -e /dev/mapper/data")
				if b.MustSh("sha256sum /dev/vda") != sum {
					t.Errorf("on %s: written to", on)
				}
			}
			refused("another chip", 3, "does not open the protected key", func(c *vm.Config) { c.Mainline.OTPMK = "another chip" })
			refused("an open chip", 3, "does not open the protected key", func(c *vm.Config) { c.Mainline.OTPMK, c.Mainline.State = "", vm.NonSecure })
			refused("mainline's dm-crypt", 4, changedLine, func(c *vm.Config) { c.Mainline.Kernel, c.Mainline.State = vm.Linux7, vm.Trusted })
			refused("a kernel before 6.19", 4, "older than 6.19", func(c *vm.Config) { c.Mainline.Kernel = vm.Linux612 })

			b.Restart(func(c *vm.Config) { c.Mainline.Kernel = vm.Linux7Protected })
			b.configure(config)
			b.MustSh("imxcrypt boot")
			check("on its own board and kernel again")
			if wrap == "ccm" { // ecb is refused for throw-away keys
				b.throwsAProtectedKeyAway()
				b.overruns("a throw-away key", false)
			}
		})
	}
}

// throwsAProtectedKeyAway uses a volume on the second disk that gets another key at
// each unlock.
func (b board) throwsAProtectedKeyAway() {
	b.t.Helper()
	b.Put("/etc/scratch.yaml", []byte(`volumes:
  - {name: scratch, device: PARTUUID=1234abcd-01, source: trusted, protected: true, filesystem: ext4, key: ephemeral, mount: /scratch}
`))
	b.MustSh(`set -e; mkdir -p /scratch; printf 'label: dos\nlabel-id: 0x1234abcd\nstart=2048\n' | sfdisk -q /dev/vdb
		imxcrypt --config /etc/scratch.yaml provision scratch
		echo 'for today' >/scratch/note; sync; echo 3 >/proc/sys/vm/drop_caches; grep -qx 'for today' /scratch/note
		imxcrypt --config /etc/scratch.yaml lock scratch; imxcrypt --config /etc/scratch.yaml unlock --mount scratch
		! test -e /scratch/note; echo 'for tomorrow' >/scratch/note; imxcrypt --config /etc/scratch.yaml lock scratch`)
}

// If protected keys cannot be used, that is found before anything is written, and
// doctor and the refusal name the line in the kernel.
func TestProtectedKeysThatThisKernelDoesNotHave(t *testing.T) {
	soakOnly(t)
	t.Parallel()
	for name, kernel := range map[string]vm.MainlineKernel{"mainline's dm-crypt": vm.Linux7, "before 6.19": vm.Linux612} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := boardWith(t, kernel, protectedVolume("ccm"))
			for command, code := range map[string]int{"provision data": 4, "provision --dry-run data": 4, "doctor": 4} {
				if r := b.Sh("imxcrypt " + command); r.Code != code || !strings.Contains(r.Stdout+r.Stderr, changedLine) {
					t.Errorf("%s: expected code %d and %s: %v", command, code, changedLine, r)
				}
			}
			b.MustSh("test $(tr -d '\\0' </dev/vda | wc -c) = 0")

			// A volume in use keeps its key.
			b.configure(trustedVolume)
			b.MustSh("imxcrypt provision data && echo 'meet me at the old oak' >/data/note && sync")
			b.configure(protectedVolume("ccm"))
			const sum = "head -c 2M /dev/vda | sha256sum"
			before := b.MustSh(sum)
			if r := b.Sh("imxcrypt rotate data"); r.Code != 4 || !strings.Contains(r.Stderr, changedLine) {
				t.Errorf("rotate: %v", r)
			}
			if b.MustSh(sum) != before {
				t.Error("the refused rotation has written to the header")
			}
			b.MustSh("echo 3 >/proc/sys/vm/drop_caches; grep -qx 'meet me at the old oak' /data/note")
			// Finding that out made no protected key.
			b.overruns("trials", false)
		})
	}
}
