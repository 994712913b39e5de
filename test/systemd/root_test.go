// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// rootVolume is the volume of the root filesystem, the same for the initramfs and for
// the real system.
const rootVolume = `volumes:
  - {name: system, device: /dev/vdb, timeout: 10m}
`

// The Debian system itself is in an encrypted volume that an initramfs opens: one made
// by initramfs-tools, the plain one, which does not use udev, and, in the long tests,
// one made by dracut. Distributions build their images by running programs of the
// system, so this is amd64 only.
func TestEncryptedRoot(t *testing.T) {
	t.Parallel()
	const arch = vm.AMD64
	dir := t.TempDir()
	plain := newRoot(t, arch, files{
		"/etc/imxcrypt/imxcrypt.yaml": text(rootVolume),
		"/etc/fstab":                  text("/dev/mapper/system / ext4 defaults 0 1\n"),
	})
	program := vm.BuildProgram(t, "./cmd/imxcrypt", string(arch))
	encrypted := vm.NewDisk(t, 512<<20)
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: arch, Disks: []*vm.Disk{plain, encrypted}, SimCAAM: &vm.SimCAAM{Closed: true}, Imxcrypt: program,
		ExtraFiles: map[string]vm.File{"/etc/imxcrypt/imxcrypt.yaml": text(strings.Replace(rootVolume, ", timeout", ", mount: /mnt/system, timeout", 1))},
	})}
	t.Log("the factory: the system is copied into the encrypted volume")
	b.MustSh(`mkdir -p /mnt/plain /mnt/system
		mount -t ext4 -o ro /dev/vda /mnt/plain
		imxcrypt provision system
		cd /mnt/plain && for part in *; do case $part in lost+found) ;; *) cp -a $part /mnt/system/ ;; esac; done
		cd / && imxcrypt lock system`)

	boot := func(image, options string) {
		b.Restart(func(c *vm.Config) {
			c.Initramfs, c.SimCAAM, c.Append = image, nil, "root=/dev/mapper/system imxcrypt_simcaam.closed=1 systemd.show_status=1 systemd.log_color=0 "+options
		})
		b.encryptedRoot()
	}
	t.Log("initramfs-tools")
	boot(distributionImage(t, "initramfs-tools", dir), "")
	b.has(b.Console(), "system: unlocked as /dev/mapper/system")
	b.rootStaysToTheEnd()

	t.Log("plain, and systemd with udev in the real system")
	boot(plainImage(t, arch, program, rootVolume), "rootfstype=ext4 init=/lib/systemd/systemd")
	b.rootStaysToTheEnd()

	t.Run("dracut", func(t *testing.T) {
		if os.Getenv("IMXCRYPT_SOAK") == "" {
			t.Skip("NOT TESTED: dracut, whose image takes a minute to build (IMXCRYPT_SOAK=1)")
		}
		boot(distributionImage(t, "dracut", dir), "rd.shell=0")
		b.rootStaysToTheEnd()
	})
}

// encryptedRoot checks what the real system must find.
func (b board) encryptedRoot() {
	b.t.Helper()
	b.mustAwait("multi-user.target")
	b.expect("findmnt -n -o SOURCE,FSTYPE /", "/dev/mapper/system ext4")
	b.expect("touch /written && echo yes", "yes")
	b.t.Log("the volume is known to the real system, and no key is left behind")
	b.has(b.journal("-b", "-u", "imxcrypt@system"), "system: unlocked as /dev/mapper/system (already)")
	if got := b.show("dev-mapper-system.device", "ActiveState"); got != "active" {
		b.t.Errorf("dev-mapper-system.device is %s:\n%s", got, b.MustRun("udevadm", "info", "/dev/mapper/system"))
	}
	b.expect("dmsetup ls --noheadings | cut -f 1; dmsetup udevcookies | tail -n +2", "system")
	b.has(b.Sh("imxcrypt status").Stdout, "mounted")
	b.noKeyLeft()
	b.expect("systemctl --failed --no-legend --plain", "")
}

// rootStaysToTheEnd switches the machine off and checks that nothing tries to lock the
// root volume.
func (b board) rootStaysToTheEnd() {
	b.t.Helper()
	b.PowerOff()
	if console := b.Console(); strings.Contains(console, "FAILED") || strings.Contains(console, "Stopping imxcrypt@system") {
		b.t.Errorf("the shutdown has trouble with the root's volume:\n%s", console)
	}
}

// distributionImage builds an initramfs in the same way as the installed package.
func distributionImage(t *testing.T, tool, dir string) string {
	t.Helper()
	const arch = vm.AMD64
	root := filepath.Join(built(t, arch), "root")
	release, err := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	if err != nil || len(release) != 1 {
		t.Fatalf("modules: %v, %v", release, err)
	}
	all := files{}
	// The volume is defined in a drop-in. The vendor provides a file, and a drop-in
	// that is masked.
	all["/usr/lib/imxcrypt/initramfs.yaml"] = text("state_dir: /run/keys\n")
	all["/usr/lib/imxcrypt/initramfs.yaml.d/50-vendor.yaml"] = text("volumes:\n  - {name: vendor, device: /dev/none}\n")
	all["/etc/imxcrypt/initramfs.yaml.d/50-vendor.yaml"] = vm.File{Link: "/dev/null"}
	all["/etc/imxcrypt/initramfs.yaml.d/root.yaml"] = text(rootVolume)
	all["/etc/initramfs-tools/modules"] = text("imxcrypt_simcaam\n")
	all["/lib/modules/"+filepath.Base(release[0])+"/extra/imxcrypt_simcaam.ko"] = vm.File{Host: vm.SimCAAMModule(t, arch)}
	over := filepath.Join(dir, tool)
	for name, f := range all {
		path := filepath.Join(over, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		data := f.Data
		if err == nil && f.Host != "" {
			data, err = os.ReadFile(f.Host)
		}
		switch {
		case err != nil:
		case f.Link != "":
			err = os.Symlink(f.Link, path)
		case f.Mode == 0:
			err = os.WriteFile(path, data, 0o644)
		default:
			err = os.WriteFile(path, data, f.Mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(dir, tool+".img")
	cmd := exec.Command("./build-initramfs", tool, root, over, image)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("build-initramfs %s: %v\n%s", tool, err, out.Bytes())
	}
	return image
}
