// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

const scratchConfig = `volumes:
  - {name: swap, device: PARTLABEL=swap, filesystem: swap, key: ephemeral}
  - {name: tmp, device: PARTLABEL=tmp, key: ephemeral, mount: /scratch}
  - {name: file, device: /images/volume.img, size: 24MiB, mount: /file}
`

// Swap and a scratch filesystem have a new key and no old contents after each reboot. A
// volume's image file is made, and its data persists. A swap partition that now holds
// something else is not touched.
func TestThrowAwayKeys(t *testing.T) {
	t.Parallel()
	m := vm.Start(t, vm.Config{
		Arch: vm.AMD64, Disks: []*vm.Disk{vm.NewDisk(t, 160<<20), vm.NewDisk(t, 64<<20)}, SimCAAM: &vm.SimCAAM{Closed: true},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "amd64"),
	})
	m.MustSh(`printf 'label: gpt\nsize=32MiB,name=swap\nname=tmp\n' | sfdisk -q /dev/vda`)
	install := func() {
		t.Helper()
		m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(scratchConfig))
		m.MustSh("mkdir -p /scratch /file /images && mount /dev/vdb /images")
	}
	in := func(what, text, part string) {
		t.Helper()
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %q:\n%s", what, part, text)
		}
	}
	m.MustSh("mkfs.ext4 -q /dev/vdb")
	install()
	in("the dry run", m.MustSh("imxcrypt provision --dry-run --all"), "make the file /images/volume.img of 25165824 bytes")
	m.MustSh("test ! -e /images/volume.img")
	m.MustSh("imxcrypt provision --all")
	in("the file", m.MustSh("stat -c '%s %a' /images/volume.img"), "25165824 600")
	mark := m.MustSh("head -c 1M /dev/vda1 | sha256sum")
	check := func() {
		t.Helper()
		in("/proc/swaps", m.MustSh("cat /proc/swaps"), "/dev/dm-")
		in("/proc/mounts", m.MustSh("cat /proc/mounts"), "/scratch ext4")
		m.MustSh("imxcrypt status && imxcrypt verify swap && imxcrypt verify tmp && imxcrypt unlock --mount swap tmp")
	}
	check()
	m.MustSh("echo 'the quick brown fox' | tee /scratch/fox > /file/fox && sync")
	first := m.MustSh("head -c 1052672 /dev/vda1 | tail -c 4096 | sha256sum")
	m.MustSh("imxcrypt lock swap tmp && ! grep -q dm- /proc/swaps && imxcrypt unlock --mount swap tmp && test ! -e /scratch/fox")
	m.Restart()
	install()
	m.MustSh("imxcrypt boot")
	check()
	m.MustSh("test ! -e /scratch/fox && grep -q 'quick brown' /file/fox")
	if now := m.MustSh("head -c 1052672 /dev/vda1 | tail -c 4096 | sha256sum"); now == first {
		t.Error("the swap header is stored as the same bytes: the key is an old one")
	}
	if now := m.MustSh("head -c 1M /dev/vda1 | sha256sum"); now != mark {
		t.Error("something was written in front of the data")
	}
	m.MustSh("imxcrypt lock --all && mkfs.ext4 -q -F /dev/vda1")
	before := m.MustSh("sha256sum /dev/vda1")
	if r := m.Sh("imxcrypt unlock --mount swap"); r.Code != 6 {
		t.Errorf("of a filesystem: %d\n%s", r.Code, r.Stderr)
	}
	if r := m.Sh("imxcrypt provision swap"); r.Code != 6 {
		t.Errorf("provision of a filesystem: %d\n%s", r.Code, r.Stderr)
	}
	if m.MustSh("sha256sum /dev/vda1") != before {
		t.Fatal("the filesystem was written to")
	}
}
