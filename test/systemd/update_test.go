// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// updateSlots are two slots for a system, as in docs/updates.md: one without a
// filesystem of imxcrypt's, and one with a filesystem that the images replace.
const updateSlots = `volumes:
  - {name: rootfs2, device: /dev/vda, filesystem: none, required: false}
  - {name: rootfs3, device: /dev/vdb, filesystem: {type: ext4, uuid: any}, required: false}
`

// updateData adds the volume that both systems use.
const updateData = updateSlots + `  - {name: data, device: /dev/vdc, mount: /data}
`

// A system in an encrypted slot writes its successor through the mapping of the other
// slot. The successor is booted, and then the first system again. Other tests cover the
// differences between the architectures.
func TestUpdate(t *testing.T) {
	t.Parallel()
	arch := vm.ARM64
	program := vm.BuildProgram(t, "./cmd/imxcrypt", string(arch))
	system := func(version, configuration string, options ...string) *vm.Disk {
		return smallSystem(t, arch, program, files{
			"/etc/version": text(version + "\n"), "/etc/imxcrypt/imxcrypt.yaml": text(configuration),
		}, options...)
	}
	first := system("1", updateData, "-b", "4096")
	// The configuration of the second system wants other sectors for the data volume.
	second := system("2", strings.Replace(updateData, "mount: /data", "sector_size: 2048, mount: /data", 1), "-b", "4096")
	small := system("small blocks", updateData, "-b", "1024")
	slots := []*vm.Disk{vm.NewDisk(t, 48<<20), vm.NewDisk(t, 48<<20), vm.NewDisk(t, 48<<20)}
	image := plainImage(t, arch, program, updateSlots)
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: arch, Disks: append(slots, first, second, small), SimCAAM: &vm.SimCAAM{Closed: true}, Imxcrypt: program,
		ExtraFiles: map[string]vm.File{"/etc/imxcrypt/imxcrypt.yaml": text(updateData)},
	})}
	boot := func(slot string) {
		b.Restart(func(c *vm.Config) {
			c.Initramfs, c.SimCAAM, c.Append = image, nil, "rootfstype=ext4 root=/dev/mapper/"+slot
		})
	}

	t.Log("the factory")
	b.MustSh(`mkdir -p /data
		imxcrypt provision --all
		echo 'of the first system' >/data/note
		imxcrypt unlock rootfs2
		dd if=/dev/vdd of=/dev/mapper/rootfs2 bs=1M conv=fsync 2>/dev/null
		imxcrypt lock --all`)

	t.Log("an update is cut off half-way: the running system's slot is as it was, the other opens")
	boot("rootfs2")
	b.expect("cat /etc/version; ls /dev/mapper", "1\ncontrol\nrootfs2\nrootfs3")
	b.expect("imxcrypt boot 2>&1 && cat /data/note && imxcrypt status data >/dev/null && echo good", strings.Join([]string{
		"rootfs2: unlocked as /dev/mapper/rootfs2 (already)", "rootfs3: unlocked as /dev/mapper/rootfs3 (already)",
		"data: mounted on /data", "of the first system", "good"}, "\n"))
	b.MustSh("dd if=/dev/vde of=/dev/mapper/rootfs3 bs=1M count=16 conv=fsync 2>/dev/null")
	b.PowerCut()
	boot("rootfs2")
	b.expect("cat /etc/version; ls /dev/mapper", "1\ncontrol\nrootfs2\nrootfs3")

	t.Log("an image with blocks of 1 KiB stands on no sectors of 4096 bytes")
	if r := b.Sh("dd if=/dev/vdf of=/dev/mapper/rootfs3 bs=1M conv=fsync 2>/dev/null; mount -t ext4 -o ro /dev/mapper/rootfs3 /mnt"); r.Code == 0 {
		t.Errorf("it is mounted: %v", r)
	}

	t.Log("written again, and booted")
	b.MustSh("dd if=/dev/vde of=/dev/mapper/rootfs3 bs=1M conv=fsync 2>/dev/null")
	boot("rootfs3")
	b.expect("cat /etc/version", "2")
	if r := b.Sh("imxcrypt unlock -v rootfs3 2>&1; imxcrypt verify -v rootfs3 2>&1; dmesg | grep 'not the one provisioning made'"); strings.Contains(r.Stdout, "provisioning made") {
		t.Errorf("another filesystem in a slot that may hold any: %v", r)
	}
	if b.Sh("grep -q sector_size: /dev/vdb").Code == 0 {
		t.Error("the image lies on the device in clear")
	}

	t.Log("its configuration is not the header's: not good, and nothing has been changed")
	refused := func() {
		t.Helper()
		if r := b.Sh("imxcrypt boot data"); r.Code != 6 || !strings.Contains(r.Stderr, `sector_size is "`) {
			t.Errorf("a data volume with other sectors than configured: %v", r)
		}
		if r := b.Sh("imxcrypt status data"); r.Code != 6 {
			t.Errorf("the gate of mark-good: %v", r)
		}
	}
	good := func() {
		t.Helper()
		r := b.Sh("imxcrypt boot data && cat /data/note && imxcrypt status data >/dev/null && echo good")
		if r.Code != 0 || !strings.HasSuffix(r.Stdout, "of the first system\ngood\n") {
			t.Errorf("the data volume: %v", r)
		}
	}
	refused()

	t.Log("it begins to rotate the data to its configuration")
	b.MustSh("imxcrypt rotate --init-only data")
	good()
	t.Log("back, in the middle of that: the first system cannot open it any more, and harms nothing")
	boot("rootfs2")
	b.expect("cat /etc/version", "1")
	refused()
	t.Log("forward again, and to the end")
	boot("rootfs3")
	b.MustSh("imxcrypt rotate --resume-only data")
	good()
	b.noKeyLeft()
}
