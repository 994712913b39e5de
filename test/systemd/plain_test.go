// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imxcrypt/test/guest/wire"
	"imxcrypt/test/vm"
	"imxcrypt/test/vm/initramfs"
)

// Two configurations of an initramfs: one with two volumes, and one for the overlay
// only.
const (
	plainVolumes = `volumes:
  - {name: system, device: /dev/vdb, mount: /mnt/system}
  - {name: store, device: /dev/vdc, mount: /mnt/store, required: false}
`
	plainOverlay = `volumes:
  - {name: store, device: /dev/vdc}
`
)

// A board without systemd and udev: the initramfs has busybox, imxcrypt and the drivers
// as modules. The root filesystem is encrypted, or read-only below an encrypted
// overlay.
func TestPlainInitramfs(t *testing.T) {
	t.Parallel()
	for _, arch := range vm.Arches() {
		t.Run(string(arch), func(t *testing.T) {
			t.Parallel()
			plainInitramfs(t, arch)
		})
	}
}

func plainInitramfs(t *testing.T, arch vm.Arch) {
	program := vm.BuildProgram(t, "./cmd/imxcrypt", string(arch))
	disks := []*vm.Disk{smallSystem(t, arch, program, nil), vm.NewDisk(t, 64<<20), vm.NewDisk(t, 32<<20)}
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: arch, Disks: disks, SimCAAM: &vm.SimCAAM{Closed: true}, Imxcrypt: program,
		ExtraFiles: map[string]vm.File{"/etc/imxcrypt/imxcrypt.yaml": text(plainVolumes)},
	})}
	t.Log("the factory: the system is copied into the encrypted volume")
	b.MustSh(`mkdir -p /mnt/plain /mnt/system /mnt/store
		mount -t ext4 -o ro /dev/vda /mnt/plain
		imxcrypt provision system store
		cp -a /mnt/plain/. /mnt/system/
		echo 'kept secret' >/mnt/system/etc/secret
		imxcrypt lock --all`)

	image := plainImage(t, arch, program, plainVolumes)
	use := func(options string) {
		b.Restart(func(c *vm.Config) { c.Initramfs, c.SimCAAM, c.Append = image, nil, options })
	}
	t.Log("an encrypted root filesystem")
	use("root=/dev/mapper/system imxcrypt.volumes=system imxcrypt.debug")
	b.expect("cat /etc/secret; ls /dev/mapper", "kept secret\ncontrol\nsystem")
	b.has(b.MustSh("cat /proc/mounts"), "/dev/mapper/system / ext4 ro")
	b.has(b.Console(), "system: key proved by its filesystem (") // with imxcrypt.debug
	b.noKeyLeft()
	t.Log("the real system knows it")
	b.has(b.MustRun("imxcrypt", "unlock", "system"), "system: unlocked as /dev/mapper/system (already)")
	status := b.Sh("imxcrypt status")
	b.has(status.Stdout+status.Stderr, "mounted on / and not on /mnt/system")
	b.expect("ls /run/imxcrypt | grep initramfs", "system.initramfs")
	if r := b.Run("imxcrypt", "lock", "system"); r.Code != 5 {
		t.Errorf("the running system's root can be locked: %v", r)
	}

	t.Log("a read-only root filesystem below an encrypted overlay")
	overlay := "root=/dev/vda rootfstype=ext4 rootrw=/dev/mapper/store imxcrypt.config=/etc/imxcrypt/overlay.yaml"
	use(overlay)
	b.has(b.MustSh("cat /proc/mounts"), "overlay / overlay rw")
	b.expect("cat /etc/secret; ls /dev/mapper; echo changed >/etc/secret; sync", "control\nstore")
	b.noKeyLeft()
	b.PowerCut()
	use(overlay)
	b.expect("cat /etc/secret /media/rfs/rw/upper/etc/secret; ls /media/rfs/ro/etc", "changed\nchanged\nguest.json\nimxcrypt\nmtab")
	b.expect("grep -c ' /media/rfs/' /proc/mounts", "2")
}

// smallSystem makes the real system: busybox, the program, the agent as its init, and
// the test's own files. The options are passed to mke2fs.
func smallSystem(t *testing.T, arch vm.Arch, program string, own files, options ...string) *vm.Disk {
	t.Helper()
	tree := vm.Minimal(t, arch, "virtio_console")
	addFile(t, tree, "/usr/sbin/init", vm.Agent(t, arch), 0o755)
	addFile(t, tree, "/usr/bin/imxcrypt", program, 0o755)
	var settings wire.Settings
	for _, file := range vm.ModuleFiles(t, arch, "virtio_console") {
		settings.Modules = append(settings.Modules, wire.Module{Path: file})
	}
	data, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	tree[wire.SettingsPath] = initramfs.Entry{Data: data, Perm: 0o644}
	tree["/etc/mtab"] = initramfs.Entry{Link: "/proc/self/mounts"}
	tree["/etc/imxcrypt/imxcrypt.yaml"] = initramfs.Entry{Data: []byte(plainVolumes), Perm: 0o644}
	for name, f := range own {
		tree[name] = initramfs.Entry{Data: f.Data, Perm: 0o644}
	}

	dir := t.TempDir()
	for name, e := range tree {
		path := filepath.Join(dir, merged(name))
		if name == "/bin" || name == "/sbin" || name == "/lib" {
			path = filepath.Join(dir, name)
		}
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && e.Link != "" {
			err = os.Symlink(e.Link, path)
		} else if err == nil {
			err = os.WriteFile(path, e.Data, e.Perm)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"data", "dev", "proc", "sys", "run", "tmp", "mnt", "root", "media"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	disk := vm.NewDisk(t, 0)
	cmd := exec.Command("mke2fs", append(append([]string{"-q", "-t", "ext4", "-d", dir}, options...), disk.Path, "32M")...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return disk
}

// plainImage returns packaging/initramfs-plain as a product would make it: the script
// and busybox, with every driver as a module.
func plainImage(t *testing.T, arch vm.Arch, program, config string) string {
	t.Helper()
	drivers := strings.Fields("virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk crc32c_generic ext4")
	tree := vm.Minimal(t, arch, append([]string{"dm-crypt", "overlay", "ecb", "cbc"}, drivers...)...)
	addFile(t, tree, "/init", "../../packaging/initramfs-plain/init", 0o755)
	addFile(t, tree, "/usr/bin/imxcrypt", program, 0o755)
	list := "# The board's drivers.\n" + strings.Join(drivers, "\n") + "\n\nimxcrypt_simcaam closed=1\n"
	tree["/etc/modules"] = initramfs.Entry{Data: []byte(list), Perm: 0o644}
	tree["/etc/imxcrypt/imxcrypt.yaml"] = initramfs.Entry{Data: []byte(config), Perm: 0o644}
	tree["/etc/imxcrypt/overlay.yaml"] = initramfs.Entry{Data: []byte(plainOverlay), Perm: 0o644}
	file := filepath.Join(t.TempDir(), "initramfs")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := tree.WriteTo(out); err != nil {
		t.Fatal(err)
	}
	return file
}

func addFile(t *testing.T, tree initramfs.Tree, name, host string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(host)
	if err != nil {
		t.Fatal(err)
	}
	tree[name] = initramfs.Entry{Data: data, Perm: mode}
}
