// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"imxcrypt/test/vm"
	"imxcrypt/test/vm/initramfs"
)

// raucBus is all that RAUC needs from D-Bus.
const raucBus = `<busconfig>
  <listen>unix:path=/run/dbus</listen>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>
`

// raucMarker is text in the second system to search for on the device.
const raucMarker = "the second system, which nobody finds on the device"

// The real SWUpdate and RAUC, configured as in docs/updates.md, install signed updates
// from the first slot into the second one, through its mapping, which their hooks
// unlock. RAUC marks the second slot as good once the volumes are up. TestUpdate covers
// that a system written through a mapping boots, and what happens to one that was cut
// off.
func TestUpdaters(t *testing.T) {
	t.Parallel()
	const arch = vm.AMD64
	if _, err := exec.LookPath("rauc"); err != nil || runtime.GOARCH != string(arch) {
		t.Skip("NOT TESTED: RAUC, whose programs are this host's (make setup, on amd64)")
	}
	data, err := os.ReadFile("../../docs/updates.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	gate := regexp.MustCompile(`(?m)^ExecStartPre=(.*)$`).FindStringSubmatch(page)
	unlock := regexp.MustCompile("`(exec imxcrypt unlock .*)`").FindStringSubmatch(page)
	if gate == nil || unlock == nil {
		t.Fatal("docs/updates.md has no gate of mark-good, or no pre-install")
	}
	keys := t.TempDir()
	certificate := signer(t, keys)
	program := vm.BuildProgram(t, "./cmd/imxcrypt", string(arch))
	own := files{
		"/etc/rauc/system.conf":      text(block(t, page, "# /etc/rauc/system.conf")),
		"/etc/rauc/keyring.pem":      {Data: certificate},
		"/usr/lib/rauc/unlock-slots": {Data: []byte("#!/bin/sh\n" + unlock[1] + "\n"), Mode: 0o755},
		"/etc/fw_env.config":         text("/dev/vdd 0x0 0x2000\n"),
		"/etc/bus.conf":              text(raucBus),
		"/var/lock":                  {Link: "/run"},
	}
	maps.Copy(own, hostPrograms(t, "rauc", "dbus-daemon", "fw_printenv", "fw_setenv"))
	out := t.TempDir()
	makeBundle(t, keys, filepath.Join(out, "update.raucb"))
	makeSWUpdate(t, keys, page, out)
	updates, slot := vm.NewDisk(t, 128<<20), vm.NewDisk(t, 32<<20)
	run(t, out, "mke2fs", "-q", "-t", "ext4", "-d", ".", updates.Path)

	extra := maps.Clone(own)
	extra["/etc/imxcrypt/imxcrypt.yaml"] = text(updateData)
	modules := []string{"squashfs", "loop", "dm-verity"}
	for name, e := range vm.Minimal(t, arch, modules...) {
		if strings.HasSuffix(name, ".ko") {
			extra[name] = vm.File{Data: e.Data}
		}
	}
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: arch, Disks: []*vm.Disk{vm.NewDisk(t, 32<<20), slot, vm.NewDisk(t, 32<<20), vm.NewDisk(t, 1<<20), updates},
		SimCAAM: &vm.SimCAAM{Closed: true}, Imxcrypt: program, ExtraFiles: extra,
	})}

	t.Log("the factory, and what runs in the first slot")
	b.MustSh("for module in " + strings.Join(vm.ModuleFiles(t, arch, modules...), " ") + `; do insmod $module 2>/dev/null || true; done
		mkdir -p /data /updates && imxcrypt provision --all && imxcrypt lock rootfs2 rootfs3 && mount -t ext4 -o ro /dev/vde /updates
		dbus-daemon --config-file=/etc/bus.conf --fork --nopidfile --nosyslog
		printf 'BOOT_ORDER=A B\nBOOT_A_LEFT=3\nBOOT_B_LEFT=3\n' >/run/environment && fw_setenv -f /run/environment BOOT_ORDER 'A B'`)
	b.swupdate()
	b.inClear(slot, swupdateMarker)

	service := b.startRAUC("A")
	t.Log("RAUC installs: the pre-install hook has opened the slot")
	t.Log(b.MustSh(onBus + "rauc install /updates/update.raucb 2>&1"))
	b.expect("ls /dev/mapper; fw_printenv BOOT_ORDER BOOT_B_LEFT", "control\ndata\nrootfs2\nrootfs3\nBOOT_ORDER=B A\nBOOT_B_LEFT=3")
	b.expect("mount -t ext4 -o ro /dev/mapper/rootfs3 /mnt && cat /mnt/version && umount /mnt", raucMarker)
	b.inClear(slot, raucMarker)

	t.Log("in the second slot: the bootloader has one try less; not good without the data")
	service.Kill()
	b.MustSh("imxcrypt lock data && fw_setenv BOOT_B_LEFT 2")
	good := gate[1] + " && " + onBus + "rauc status mark-good"
	if r := b.Sh(good); r.Code != 1 {
		t.Errorf("the gate of mark-good: %v", r)
	}
	b.expect("fw_printenv BOOT_B_LEFT", "BOOT_B_LEFT=2")
	t.Log("good")
	b.MustRun("imxcrypt", "boot", "data")
	b.startRAUC("B")
	b.MustSh(good)
	b.expect("fw_printenv BOOT_ORDER BOOT_B_LEFT; ls /data/rauc", "BOOT_ORDER=B A\nBOOT_B_LEFT=3\ncentral.raucs")
	b.noKeyLeft()
}

// inClear ends the test if a text is on a disk in plaintext.
func (b board) inClear(disk *vm.Disk, text string) {
	b.t.Helper()
	b.MustRun("sync")
	data, err := os.ReadFile(disk.Path)
	if err != nil {
		b.t.Fatal(err)
	}
	if bytes.Contains(data, []byte(text)) {
		b.t.Fatalf("%q lies on the device", text)
	}
}

const onBus = "export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/dbus; "

// startRAUC starts RAUC's service in a slot.
func (b board) startRAUC(slot string) *vm.Process {
	b.t.Helper()
	service := b.StartCommand(vm.Command{Argv: []string{"sh", "-c", onBus + "exec rauc --override-boot-slot=" + slot + " service"}})
	b.MustSh(onBus + "for i in $(seq 300); do if rauc status 2>/dev/null | grep -q 'Booted from: .*(" + slot + ")'; then exit; fi; sleep 0.1; done; exec rauc status")
	return service
}

// block returns the code block of a page that begins with a line, without that line.
func block(t *testing.T, page, first string) string {
	t.Helper()
	_, after, _ := strings.Cut(page, first+"\n")
	code, _, found := strings.Cut(after, "```\n")
	if !found {
		t.Fatalf("no block begins with %q", first)
	}
	return code
}

// hostPrograms returns programs of this host with the libraries that they need.
func hostPrograms(t *testing.T, names ...string) files {
	t.Helper()
	tree, all := initramfs.Tree{}, files{}
	if err := (initramfs.Programs{Root: "/", Triplet: "x86_64-linux-gnu"}).AddTo(tree, names...); err != nil {
		t.Fatal(err)
	}
	for name, e := range tree {
		all[name] = vm.File{Data: e.Data, Link: e.Link, Mode: e.Perm}
	}
	return all
}

// signer makes a key and a certificate, key.pem and certificate.pem, in a folder and
// returns the certificate.
func signer(t *testing.T, dir string) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	about.Subject.CommonName = "updates"
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, data := range map[string][]byte{
		"certificate.pem": certificate,
		"key.pem":         pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate
}

// makeBundle makes a bundle of an image.
func makeBundle(t *testing.T, keys, bundle string) {
	t.Helper()
	content, system := t.TempDir(), t.TempDir()
	const manifest = "[update]\ncompatible=our-board\nversion=2\n[bundle]\nformat=verity\n[image.rootfs]\nfilename=rootfs.ext4\n"
	err := os.WriteFile(filepath.Join(content, "manifest.raucm"), []byte(manifest), 0o644)
	if err == nil {
		err = os.WriteFile(filepath.Join(system, "version"), []byte(raucMarker+"\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	run(t, content, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", system, "rootfs.ext4", "4M")
	run(t, keys, "rauc", "--cert=certificate.pem", "--key=key.pem", "--keyring=certificate.pem",
		"--mksquashfs-args=-noI -noD -noF -noX", "bundle", content, bundle)
}

// run runs a program of this host in a folder.
func run(t *testing.T, dir string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}
