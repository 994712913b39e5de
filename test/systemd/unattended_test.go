// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// slowly is a drop-in that slows down an encryption, so that a cut finds it halfway.
const slowly = "/etc/systemd/system/imxcrypt-rotate@.service.d/slowly.conf"

const secret = "a secret in plain text"

// A plaintext /data of a board in the field is encrypted by the changes of an update
// and a restart, without anyone present. Power is cut before the restart, and twice
// during the encryption.
func TestAnUpdateEncryptsData(t *testing.T) {
	t.Parallel()
	disk, sums := usedInPlain(t)
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.AMD64, Root: "/dev/vda", SimCAAM: &vm.SimCAAM{Closed: true}, Append: systemOptions,
		Disks: []*vm.Disk{newRoot(t, vm.AMD64, files{
			"/etc/imxcrypt/imxcrypt.yaml": text("volumes:\n  - {name: data, device: /dev/disk/by-path/second-disk, mount: /data, on_plaintext: encrypt, timeout: 5m}\n"),
			"/data/.empty":                text(""),
			// The disk has no partitions by which to name it, and its place on the bus
			// depends on the harness.
			"/etc/udev/rules.d/70-second-disk.rules": text(`KERNEL=="vdb", SYMLINK+="disk/by-path/second-disk"` + "\n"),
			"/root/sums":                             text(sums),
			slowly:                                   text("[Service]\nExecStart=\nExecStart=/usr/bin/imxcrypt rotate --resume-only --rate-limit 256KiB %I\n"),
		}), disk},
	})}
	same := func() {
		b.t.Helper()
		b.MustSh("cd /data && sha256sum --quiet -c /root/sums")
	}
	b.mustAwait("multi-user.target")
	b.t.Log("the start after the update has made it the volume, and mounted it; the rest is encrypted in the background")
	b.expect("findmnt -n -o SOURCE /data", "/dev/mapper/data")
	same()
	b.expect("until systemctl --quiet is-active imxcrypt-encrypt@data; do sleep 0.3; done; systemctl show -P Id imxcrypt-encrypt@data", "imxcrypt-rotate@data.service")
	b.moves("the encryption")
	b.MustSh("echo 'written on the way' >/data/second; sync -f /data")

	b.t.Log("the plug is pulled in the middle, and in the middle of the rest")
	b.Restart()
	b.mustAwait("multi-user.target")
	b.expect("cat /data/second; ls /var/lib/imxcrypt/volumes", "written on the way\ndata.json")
	same()
	b.moves("the encryption of before the power cut")
	b.MustSh("rm " + slowly + "; sync")
	b.Restart()
	b.mustAwait("multi-user.target")
	b.ends("the encryption of before the second power cut")
	same()
	b.expect("cat /data/second; imxcrypt verify data >/dev/null && echo good", "written on the way\ngood")
	b.has(b.MustSh("imxcrypt status --json data"), `"phase":"ready"`)
	b.noKeyLeft()

	b.t.Log("whoever puts plain text in its place does not get it mounted")
	b.MustSh("systemctl stop imxcrypt@data.service; udevadm settle; sync")
	now, err := os.ReadFile(disk.Path)
	if err != nil || bytes.Contains(now, []byte(secret)) {
		t.Errorf("plain text is left on the device (%v)", err)
	}
	b.MustSh("mkfs.ext4 -q -F -b 4096 /dev/vdb 14336; udevadm settle; sha256sum /dev/vdb >/run/sum")
	if r := b.Sh("systemctl start data.mount"); r.Code == 0 {
		t.Errorf("mounted: %v", r)
	}
	b.MustSh("! findmnt /data; sha256sum --quiet -c /run/sum")
	b.has(b.journal("-b", "-u", "imxcrypt@data"), "was made before, as /var/lib/imxcrypt/volumes/data.json says")
}

// usedInPlain returns a disk filled by a plaintext filesystem that was mounted when
// power was cut, and the checksums of its files.
func usedInPlain(t *testing.T) (disk *vm.Disk, sums string) {
	t.Helper()
	disk = vm.NewDisk(t, 64<<20)
	dir := t.TempDir()
	put := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		sums += fmt.Sprintf("%x  %s\n", sha256.Sum256(data), name)
	}
	large := make([]byte, 20<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(large) // never fails
	put("large", large)
	for i := range 100 {
		put(fmt.Sprint("small", i), []byte(strings.Repeat(fmt.Sprintln(secret, i), i+1)))
	}
	for _, argv := range [][]string{
		{"mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", dir, disk.Path, "64M"},
		{"debugfs", "-w", "-R", "feature needs_recovery", disk.Path}, // must be checked before it is encrypted
	} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	return disk, sums
}
