// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// The procedure of docs/mainline.md: on a kernel that has both sources, a volume with a
// black key moves to trusted keys while it is in use, is cut off in the middle, and
// finally opens on a kernel that has only trusted keys. The configuration with source
// auto never changes.
func TestFromTheDriverOfNXPToTrustedKeys(t *testing.T) {
	t.Parallel()
	const auto = `volumes:
  - name: data
    device: /dev/vda
    mount: {path: /data, options: [noatime]}
`
	const moving = `volumes:
  - name: data
    device: /dev/vda
    source: trusted
    trusted: {source: caam}
    mount: {path: /data, options: [noatime]}
`
	m := vm.Mainline{Keys: vm.CAAM, Keygen: true}
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.ARM64, Mainline: &m, Disks: []*vm.Disk{vm.NewDisk(t, 96<<20)},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "arm64"),
	})}
	configure := func() {
		b.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(auto))
		b.Put("/etc/imxcrypt-moving.yaml", []byte(moving))
		b.MustSh("mkdir -p /data")
	}
	source := func(want string) {
		t.Helper()
		if got := b.MustSh("imxcrypt status --json data"); !strings.Contains(got, `"source":"`+want+`"`) {
			t.Errorf("expected source %s: %s", want, got)
		}
	}
	configure()
	if r := b.Sh("imxcrypt provision --dry-run data"); !strings.Contains(r.Stdout, "would choose source caam: ") {
		t.Errorf("dry run: %v", r)
	}
	b.MustSh("imxcrypt provision data && dd if=/dev/urandom of=/data/file bs=1M count=48 2>/dev/null && sync && sha256sum /data/file >/data/sum && sync")
	source("caam")
	check := func(when string) {
		t.Helper()
		b.MustSh("echo 3 >/proc/sys/vm/drop_caches")
		if r := b.Sh("sha256sum -c /data/sum"); r.Code != 0 {
			t.Errorf("%s: %v", when, r)
		}
	}

	// In use, and stopped in the middle; then power is cut.
	b.MustSh("imxcrypt --config /etc/imxcrypt-moving.yaml rotate --dry-run data")
	b.MustSh("imxcrypt --config /etc/imxcrypt-moving.yaml rotate --init-only data")
	check("with both keys")
	b.MustSh("imxcrypt rotate --resume-only --rate-limit 8MiB data >/dev/null 2>&1 & until dmsetup ls | grep -q data:hot; do kill -0 $! || exit 1; sleep 0.1; done; imxcrypt rotate --pause data; wait")
	check("in the middle")
	if dump := b.MustSh("dd if=/dev/vda bs=16k count=1 2>/dev/null | strings -n 8"); !strings.Contains(dump, "imxcrypt-rotate-source-v1") {
		t.Errorf("an earlier program would not see that there are two sources:\n%s", dump)
	}
	b.Restart()
	configure()
	b.MustSh("imxcrypt boot")
	check("after a power cut in the middle")

	// A kernel without NXP's driver has only one of the two keys, and the error says
	// which is missing.
	b.Restart(func(c *vm.Config) { c.Mainline.Keygen = false })
	configure()
	if r := b.Sh("imxcrypt unlock data"); r.Code != 4 || !strings.Contains(r.Stderr, "caam-missing") && !strings.Contains(r.Stderr, "/dev/caam-keygen") {
		t.Errorf("half-way, on a kernel without the CAAM's driver: %v", r)
	}

	b.Restart(func(c *vm.Config) { c.Mainline.Keygen = true })
	configure()
	b.MustSh("imxcrypt boot && imxcrypt rotate --resume-only data")
	check("with the new key")
	source("trusted")

	// From now on the product uses a mainline kernel.
	b.Restart(func(c *vm.Config) { c.Mainline.Keygen = false })
	configure()
	b.MustSh("imxcrypt boot && imxcrypt verify data")
	check("on mainline's kernel")
	source("trusted")
	if keys := b.MustSh("cat /proc/keys"); strings.Contains(keys, "imxcrypt:") {
		t.Errorf("a key is left in a keyring:\n%s", keys)
	}
}
