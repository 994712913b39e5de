// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// trustedVolume is a configuration for a mainline kernel.
const trustedVolume = `volumes:
  - name: data
    device: /dev/vda
    source: trusted
    mount: {path: /data, options: [noatime]}
`

// The main job with the kernel's own drivers: provisioned, unlocked at boot after a
// power cycle, not opened while its sealed key is damaged, given another key in use,
// and not opened by another chip.
func TestAVolumeWithATrustedKey(t *testing.T) {
	eachSource(t, func(t *testing.T, s source) {
		m := vm.Mainline{Keys: s.keys, Kernel: s.kernel}
		other := vm.Mainline{Keys: s.keys, Kernel: s.kernel, OTPMK: "another chip"}
		if s.keys == vm.TPM2 {
			m.TPM = vm.NewTPM(t)
			other = vm.Mainline{Keys: s.keys, Kernel: s.kernel, TPM: vm.NewTPM(t)}
		}
		disk := vm.NewDisk(t, 64<<20)
		b := board{t: t, Machine: vm.Start(t, vm.Config{
			Arch: vm.ARM64, Mainline: &m, Disks: []*vm.Disk{disk, vm.NewDisk(t, 16<<20)},
			Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "arm64"),
		})}
		b.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(trustedVolume))
		b.MustSh("mkdir -p /data && imxcrypt provision data && echo 'meet me at the old oak' >/data/note && sync")
		trust := strings.TrimSuffix(string(s.keys), "2") // the kernel's name of tpm2 is tpm
		if dump := b.MustSh("dd if=/dev/vda bs=16k count=1 2>/dev/null | strings -n 8"); !strings.Contains(dump, `"trust":"`+trust+`"`) {
			t.Errorf("the token does not name the trust source %s:\n%s", trust, dump)
		}
		key := regexp.MustCompile(` :64:trusted:imxcrypt:([0-9a-f-]{36}):1 `).FindStringSubmatch(b.MustSh("dmsetup table --showkeys data"))
		if key == nil || !strings.Contains(b.MustSh("head -c 4096 /dev/vda | strings -n 36"), key[1]) {
			t.Fatalf("the table does not name the first key of the volume: %q", key)
		}
		if keys := b.MustSh("cat /proc/keys"); strings.Contains(keys, "imxcrypt:") {
			t.Errorf("a key is left in a keyring:\n%s", keys)
		}

		b.MustSh("imxcrypt header backup data /tmp/header")
		header := b.Get("/tmp/header")
		b.Restart(func(*vm.Config) { damageBlob(t, disk) })
		b.configure(trustedVolume)
		b.says("imxcrypt unlock data", 3, "the trust source "+trust+" rejected the sealed key")
		b.says("imxcrypt status --json data; true", 0, `"blob-rejected"`)
		b.MustSh("! test -e /dev/mapper/data")
		b.Put("/tmp/header", header)
		b.MustSh("imxcrypt header restore --yes data /tmp/header && imxcrypt boot")
		note := func(when string) {
			t.Helper()
			if got := b.MustSh("cat /data/note"); strings.TrimSpace(got) != "meet me at the old oak" {
				t.Errorf("%s: %q", when, got)
			}
		}
		note("after a power cycle, the header restored")
		b.plugPulledInARotation(trustedVolume)
		note("after the plug was pulled in a rotation")
		b.MustSh("imxcrypt verify data && imxcrypt rotate --resume-only data")
		note("with another key")
		if table := b.MustSh("dmsetup table --showkeys data"); !strings.Contains(table, " :64:trusted:imxcrypt:"+key[1]+":2 ") {
			t.Errorf("the table does not name the volume's second key: %s", table)
		}
		b.encryptsInPlaceAndDecrypts()
		if s.keys == vm.CAAM {
			b.measuresBothCiphers()
			b.refusesAnotherTrustSource()
			b.adoptsWhatWasMadeByHand("aes-xts-plain64", "aes-xts-plain64", 64, 4096)
			b.adoptsWhatWasMadeByHand("capi:adiantum(xchacha12,aes)-plain64", "xchacha12,aes-adiantum-plain64", 32, 4096)
			b.adoptsWhatWasMadeByHand("aes-cbc-plain64", "capi:cbc(aes)-plain", 32, 512) // as in Toradex's layer
		}
		// Another program has a key of that name, which must not be taken for ours.
		name, others := "imxcrypt:"+key[1]+":2", "new 64"+s.options
		b.MustSh("imxcrypt lock data && keyctl session - sh -ec 'keyctl add trusted " + name + " \"" + others + "\" @s; imxcrypt unlock --mount data; keyctl search @s trusted " + name + "'")
		note("unlocked again, with somebody's key of its name")
		b.MustSh("imxcrypt lock data")

		b.Restart(func(c *vm.Config) { c.Mainline = &other })
		b.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(trustedVolume))
		r := b.Sh("imxcrypt unlock data")
		if r.Code != 3 || !strings.Contains(r.Stderr, "rejected the sealed key") {
			t.Errorf("on another chip: %v", r)
		}
		b.MustSh("! test -e /dev/mapper/data")
	})
}

// configure sets up a board after each boot, because its root filesystem is in memory.
func (b board) configure(config string) {
	b.t.Helper()
	b.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(config))
	b.MustSh("mkdir -p /data /logs /more")
}

// says checks a command's exit code and its output in either stream.
func (b board) says(command string, code int, texts ...string) {
	b.t.Helper()
	r := b.Sh(command)
	for _, text := range texts {
		if r.Code != code || !strings.Contains(r.Stdout+r.Stderr, text) {
			b.t.Errorf("expected code %d and %q of %s: %v", code, text, command, r)
		}
	}
}

// encryptsInPlaceAndDecrypts encrypts a filesystem with a plaintext file, and decrypts
// it again. Its header is on the mounted volume.
func (b board) encryptsInPlaceAndDecrypts() {
	b.t.Helper()
	b.Put("/etc/plain.yaml", []byte(`volumes:
  - {name: plain, device: /dev/vdb, source: trusted, header: /data/plain.header, mount: /plain}
`))
	b.MustSh(`set -e; mkdir -p /plain; mkfs.ext4 -q -b 4096 /dev/vdb; mount -t ext4 /dev/vdb /plain
		yes 'beside the young birch' | head -c 4096 >/plain/note; umount /plain; grep -q 'young birch' /dev/vdb
		imxcrypt --config /etc/plain.yaml encrypt plain; ! grep -q 'young birch' /dev/vdb`)
	note := func(when string) {
		b.t.Helper()
		if got := b.MustSh("head -n 1 /plain/note"); strings.TrimSpace(got) != "beside the young birch" {
			b.t.Errorf("%s: %q", when, got)
		}
	}
	note("encrypted in place")
	b.MustSh(`set -e; imxcrypt --config /etc/plain.yaml lock plain; imxcrypt --config /etc/plain.yaml unlock --mount plain`)
	note("encrypted in place, unlocked again")
	b.MustSh(`set -e; imxcrypt --config /etc/plain.yaml lock plain; imxcrypt --config /etc/plain.yaml decrypt --yes plain
		test ! -e /data/plain.header; e2fsck -fn /dev/vdb; mount -t ext4 /dev/vdb /plain`)
	note("decrypted")
	b.MustSh("umount /plain")
}

// plugPulledInARotation cuts power while the volume is mounted and its data is under
// two keys. What a program has synced to it by then is there afterwards.
func (b board) plugPulledInARotation(config string) {
	b.t.Helper()
	diary := b.Start("sh", "-c", `i=0
		while printf '%4095d\n' $i | dd of=/data/diary bs=4k oflag=append conv=notrunc,fsync 2>/dev/null; do echo $i; i=$((i + 1)); done`)
	synced := func() int { return strings.Count(diary.Stdout(), "\n") }
	b.Start("imxcrypt", "rotate", "--rate-limit", "1MiB", "data")
	moving := -1 // what was synced before a zone moved
	for tries := 0; moving < 0 || synced() < moving+3; tries++ {
		if moving < 0 && strings.Contains(b.MustRun("dmsetup", "ls"), "data:hot") {
			moving = synced()
		}
		if time.Sleep(100 * time.Millisecond); tries > 1800 {
			b.t.Fatalf("the rotation does not move a zone, or nothing is written meanwhile: %d pages, then %d", moving, synced())
		}
	}
	pages := synced()
	b.Restart()
	b.configure(config)
	if r := b.Sh("imxcrypt boot"); r.Code != 0 || !strings.Contains(r.Stderr, "half-way through a rotation") {
		b.t.Errorf("boot: %v", r)
	}
	b.t.Logf("%d pages were synced, %d of them before a zone moved", pages, moving)
	var want strings.Builder
	for i := range pages {
		fmt.Fprintf(&want, "%4095d\n", i)
	}
	if got := b.Get("/data/diary"); !strings.HasPrefix(string(got), want.String()) {
		b.t.Errorf("%d pages were synced before the cut, and not all of them are there: %d bytes, the last %.4095s", pages, len(got), got[max(0, len(got)-4096):])
	}
}

// refusesAnotherTrustSource: the kernel has one trust source at a time, so a rotation
// from one to another cannot begin, and the error says which one there is.
func (b board) refusesAnotherTrustSource() {
	b.t.Helper()
	b.Put("/etc/other.yaml", []byte(strings.Replace(trustedVolume, "source: trusted\n", "source: trusted\n    trusted: {source: tpm}\n", 1)))
	const sum = "head -c 2M /dev/vda | sha256sum"
	before := b.MustSh(sum)
	r := b.Sh("imxcrypt --config /etc/other.yaml rotate data")
	if r.Code != 4 || !strings.Contains(r.Stderr, "the kernel's trust source is caam, and the configuration asks for tpm") {
		b.t.Errorf("to a trust source that is not there: %v", r)
	}
	if b.MustSh(sum) != before {
		b.t.Error("the refused rotation has written to the header")
	}
}

// measuresBothCiphers: without a configured key source, the benchmark uses what is
// available, and recommends one of the ciphers among which provisioning chooses.
func (b board) measuresBothCiphers() {
	b.t.Helper()
	r := b.RunCommand(vm.Command{Argv: []string{"imxcrypt", "bench", "--each", "1ms", "--keys", "2"}, Timeout: 20 * time.Minute})
	b.t.Logf("exit %d in %v\n%s%s", r.Code, r.Duration, r.Stdout, r.Stderr)
	const xts, adiantum = "aes-xts-plain64", "capi:adiantum(xchacha12,aes)-plain64"
	for _, cipher := range []string{xts, adiantum} {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(cipher) + ` +4096 .* MiB/s$`).MatchString(r.Stdout) {
			b.t.Errorf("%s was not measured", cipher)
		}
	}
	if r.Code != 0 || !strings.Contains(r.Stdout, "source trusted: ") ||
		!strings.Contains(r.Stdout, "cipher: "+xts+"\n    key_size: 64\n") && !strings.Contains(r.Stdout, "cipher: "+adiantum+"\n    key_size: 32\n") {
		b.t.Errorf("neither cipher is recommended: exit %d", r.Code)
	}
}

// adoptsWhatWasMadeByHand adopts a volume made with keyctl and dmsetup, whose table
// spells the cipher differently.
func (b board) adoptsWhatWasMadeByHand(cipher, spelled string, keySize, sectorSize int) {
	b.t.Helper()
	name := fmt.Sprintf("hand%d-%d", keySize, sectorSize)
	b.Put("/etc/hand.yaml", fmt.Appendf(nil, `volumes:
  - {name: %s, device: /dev/vdb, source: trusted, cipher: "%s", sector_size: %d, header: /etc/%[1]s.luks, mount: /hand}
`, name, cipher, sectorSize))
	b.MustSh(fmt.Sprintf(`set -e; mkdir -p /hand
		keyctl session - sh -ec 'id=$(keyctl add trusted kmk "new %[2]d" @s); keyctl pipe $id >/etc/hand.blob
			dmsetup create byhand --table "0 32768 crypt %[3]s :%[2]d:trusted:kmk 0 /dev/vdb 0 1 sector_size:%[4]d"'
		dmsetup mknodes; dmsetup table --showkeys byhand >/etc/hand.table
		mkfs.ext4 -q -b 4096 /dev/mapper/byhand && mount -t ext4 /dev/mapper/byhand /hand
		echo 'under the old oak' >/hand/note; umount /hand; dmsetup remove byhand; sha256sum /dev/vdb >/etc/hand.sum
		imxcrypt --config /etc/hand.yaml adopt %[1]s --blob /etc/hand.blob --table "$(cat /etc/hand.table)"
		sha256sum -c /etc/hand.sum >/dev/null
		imxcrypt --config /etc/hand.yaml unlock --mount %[1]s`, name, keySize, spelled, sectorSize))
	if got := b.MustSh(fmt.Sprintf("cat /hand/note; imxcrypt --config /etc/hand.yaml lock %s >/dev/null", name)); strings.TrimSpace(got) != "under the old oak" {
		b.t.Errorf("%s, adopted: %q", spelled, got)
	}
}
