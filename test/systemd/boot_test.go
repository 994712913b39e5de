// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"imxcrypt/internal/audit"
	"imxcrypt/test/vm"
)

// volumes holds, together with the vendor's, a volume that imxcrypt's own mount unit
// mounts, one that a line in fstab mounts, one that is not opened at boot, one whose
// device never appears, and swap. The swap disk has no partitions by which to name it,
// so a udev rule names it. Emulated processors need a long time until udev is up.
const volumes = `volumes:
  - {name: data, device: /dev/vdb, mount: {path: /data, options: [noatime]}, timeout: 10m}
  - {name: spare, device: /dev/vdd, mount: /srv/by-link/spare, at_boot: false, timeout: 10m}
  - {name: pages, device: /dev/disk/by-path/fifth-disk, filesystem: swap, key: ephemeral, required: false, timeout: 10m}
  - {name: gone, device: /dev/vdy, mount: /srv/gone, required: false, timeout: 1s}
`

// vendorVolumes are the volumes added by another layer of the image.
const vendorVolumes = `volumes:
  - {name: logs, device: /dev/vdc, timeout: 10m}
`

// provedInDebug is a step of unlocking that is logged only with imxcrypt.debug.
const provedInDebug = "data: key proved by its filesystem ("

// bootFiles returns the files of a product: the configuration, provisioning at the
// first boot, and a service that needs the volume.
func bootFiles() files {
	f := files{
		"/etc/imxcrypt/imxcrypt.yaml":                    text(volumes),
		"/usr/lib/imxcrypt/imxcrypt.yaml.d/20-logs.yaml": text(vendorVolumes),
		"/etc/fstab":                            text("/dev/mapper/logs /srv/logs ext4 nodev 0 2\n"),
		"/srv/logs/.empty":                      text(""),
		"/srv/gone/.empty":                      text(""),
		"/srv/spare/.empty":                     text(""),
		"/etc/udev/rules.d/70-fifth-disk.rules": text(`KERNEL=="vde", SYMLINK+="disk/by-path/fifth-disk"` + "\n"),
		// To distinguish a shutdown that hangs from one that is slow on a busy host.
		"/etc/systemd/system.conf.d/patient.conf":           text("[Manager]\nDefaultTimeoutStopSec=20min\n"),
		"/etc/systemd/system/imxcrypt@.service.d/stop.conf": text("[Service]\nTimeoutStopSec=20min\n"),
		"/etc/systemd/system/user-of-data.service": text(`[Unit]
RequiresMountsFor=/data
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'findmnt -n -o SOURCE,OPTIONS /data; if test -e /data/kept; then cat /data/kept; fi'
`),
	}
	f.enabled("multi-user.target", "user-of-data.service", "../../../../etc/systemd/system/user-of-data.service")
	for _, name := range []string{"data", "logs", "pages"} {
		f.enabled("cryptsetup.target", "imxcrypt-provision@"+name+".service", "imxcrypt-provision@.service")
	}
	return f
}

// The life of a product with systemd and udev: the first boot makes the volumes, each
// later boot opens them, and failures are reported and affect nothing else.
func TestSystemd(t *testing.T) {
	t.Parallel()
	b := startSystemd(t, vm.AMD64)
	b.firstBoot()
	b.metrics()
	b.stopAndStart()
	b.rotate()
	b.privileges()
	b.busyShutdown()
	b.Restart(with("imxcrypt.debug"))
	b.laterBoot()
	b.unplugged()
	b.orderlyShutdown(func() {
		b.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(strings.Replace(volumes, "mount: {", "mont: {", 1)))
	})
	b.Restart(with(""))
	b.invalidConfiguration()
	b.MustSh("sed -i 's/, required: false//' /etc/imxcrypt/imxcrypt.yaml")
	b.PowerOff()
	b.Restart(func(c *vm.Config) { c.SimCAAM.OTPMK = strings.Repeat("5a", 32) })
	b.nothingWorks()
}

// The same with systemd on the kind of board for which the program is made, as far as
// the architecture could matter.
func TestSystemdOnARM64(t *testing.T) {
	t.Parallel()
	if os.Getenv("IMXCRYPT_SOAK") == "" {
		t.Skip("NOT TESTED: systemd on arm64, by make soak only (IMXCRYPT_SOAK=1); TestSystemd has the same units on amd64, TestPlainInitramfs and the scenarios the program on arm64")
	}
	b := startSystemd(t, vm.ARM64)
	b.firstBoot()
	b.stopAndStart()
	b.PowerOff()
	b.Restart(with("imxcrypt.debug"))
	b.laterBoot()
	b.orderlyShutdown(func() {})
}

func startSystemd(t *testing.T, arch vm.Arch) board {
	t.Helper()
	disks := []*vm.Disk{newRoot(t, arch, bootFiles()), vm.NewDisk(t, 64<<20), vm.NewDisk(t, 64<<20), vm.NewDisk(t, 16<<20), vm.NewDisk(t, 16<<20)}
	return board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: arch, Root: "/dev/vda", Disks: disks, SimCAAM: &vm.SimCAAM{Closed: true}, Append: systemOptions,
	})}
}

const systemOptions = "systemd.show_status=1 systemd.log_color=0"

// with boots with additional kernel arguments.
func with(options string) func(*vm.Config) {
	return func(c *vm.Config) { c.Append = systemOptions + " " + options }
}

func (b board) firstBoot() {
	b.t.Helper()
	b.mustAwait("multi-user.target")
	b.t.Log("the first boot has made the volumes, and mounted them before their users")
	for _, name := range []string{"data", "logs"} {
		b.eventually(name + ": provisioned")
	}
	b.eventually("/dev/mapper/data rw,noatime", "-u", "user-of-data")
	b.expect("findmnt -n -o SOURCE,OPTIONS /srv/logs | cut -d , -f 1,2", "/dev/mapper/logs rw,nodev")
	b.expect("echo 'a year of work' >/data/kept; cat /data/kept", "a year of work")

	if text := b.journal("-b", "-u", "imxcrypt@data"); strings.Contains(text, provedInDebug) {
		b.t.Errorf("every step is reported without imxcrypt.debug:\n%s", text)
	}

	b.swapped()

	b.t.Log("a volume that is not required does not hold up the boot")
	if got := b.show("srv-gone.mount", "ActiveState"); got == "active" || got == "failed" {
		b.t.Errorf("the mount of a volume without a device is %s", got)
	}

	b.t.Log("a volume with at_boot: false is nobody's")
	b.expect("systemctl is-active imxcrypt@spare srv-spare.mount", "inactive\ninactive")
	// Use the volume's units: systemd starts the service of a mapping that appears, and
	// would undo a manual lock that is faster than that start. systemd refuses mount
	// points behind a symbolic link, so the generator resolves it.
	b.MustSh("ln -s . /srv/by-link; systemctl daemon-reload; imxcrypt provision --no-mount spare; systemctl start srv-spare.mount; echo 'for a rainy day' >/srv/spare/kept; systemctl stop imxcrypt@spare")
	b.expect("systemctl is-active imxcrypt@spare srv-spare.mount; udevadm settle; ls /dev/mapper", "inactive\ninactive\ncontrol\ndata\nlogs\npages")

	b.t.Log("udev knows the volumes as systemd needs it")
	uuid := strings.TrimSpace(b.MustRun("blkid", "-o", "value", "-s", "UUID", "/dev/mapper/data"))
	b.expect("realpath /dev/disk/by-uuid/"+uuid, strings.TrimSpace(b.MustRun("realpath", "/dev/mapper/data")))
	properties := b.MustRun("udevadm", "info", "-q", "property", "/dev/mapper/data")
	if strings.Contains(properties, "SYSTEMD_READY=0") || strings.Contains(properties, "DISABLE_OTHER_RULES_FLAG=1") {
		b.t.Errorf("systemd is not to see the volume:\n%s", properties)
	}
	b.has(properties, "ID_FS_UUID="+uuid)
	if got := b.show("dev-mapper-data.device", "ActiveState"); got != "active" {
		b.t.Errorf("dev-mapper-data.device is %s", got)
	}
	b.expect("dmsetup udevcookies | tail -n +2", "")
	b.noKeyLeft()

	b.t.Log("the journal has priorities and fields")
	found := map[string]bool{}
	for _, e := range b.entries("MESSAGE_ID=" + audit.MessageID) {
		found[fmt.Sprint(e["IMXCRYPT_OPERATION"], " ", e["IMXCRYPT_VOLUME"], " ", e["IMXCRYPT_RESULT"], " ", e["PRIORITY"])] = true
	}
	for _, want := range []string{"provision data done 5", "provision logs done 5", "unlock data done 5", "unlock logs done 5"} {
		if !found[want] {
			b.t.Errorf("the journal has no %q: %v", want, found)
		}
	}
	// Except that one of the devices is missing, sooner or later.
	if text := b.journal("-b", "-p", "3", "-u", "imxcrypt@*", "-u", "imxcrypt-provision@*", "-u", "imxcrypt-key@*", "-u", "imxcrypt-rotate@*"); strings.Contains(text, "imxcrypt: ") {
		b.t.Errorf("errors in a boot without any:\n%s", text)
	}
}

// swapped checks that the kernel's swap has a new key in each boot, through the unit
// that the generator made.
func (b board) swapped() {
	b.t.Helper()
	b.t.Log("swap has a key of its own for this boot")
	b.expect("systemctl is-active dev-mapper-pages.swap; swapon --noheadings --show=NAME | xargs realpath", "active\n"+strings.TrimSpace(b.MustRun("realpath", "/dev/mapper/pages")))
}

// metrics checks that a service writes the metrics for node-exporter.
func (b board) metrics() {
	b.t.Helper()
	b.t.Log("the metrics' service writes them, and its timer starts it")
	b.expect("systemctl is-active imxcrypt-metrics.timer", "inactive")
	b.MustSh("mkdir -p /var/lib/prometheus/node-exporter; systemctl start imxcrypt-metrics.timer imxcrypt-metrics.service")
	b.expect(`cd /var/lib/prometheus/node-exporter; ls; grep 'imxcrypt_volume_up{volume="[dg]' imxcrypt.prom; systemctl is-active imxcrypt-metrics.timer`,
		"imxcrypt.prom\nimxcrypt_volume_up{volume=\"data\"} 1\nimxcrypt_volume_up{volume=\"gone\"} 0\nactive")
	b.MustRun("systemctl", "stop", "imxcrypt-metrics.timer")
}

// stopAndStart locks and unlocks with systemctl.
func (b board) stopAndStart() {
	b.t.Helper()
	b.t.Log("systemctl stop unmounts and locks, start unlocks and mounts, restart is both")
	b.MustRun("systemctl", "stop", "imxcrypt@data")
	b.expect("systemctl is-active imxcrypt@data data.mount user-of-data; findmnt /data; udevadm settle; ls /dev/mapper", "inactive\ninactive\ninactive\ncontrol\nlogs\npages")
	b.MustRun("systemctl", "start", "user-of-data")
	b.expect("systemctl is-active imxcrypt@data data.mount; cat /data/kept", "active\nactive\na year of work")
	before := b.show("data.mount", "ActiveEnterTimestampMonotonic")
	b.MustRun("systemctl", "restart", "imxcrypt@data")
	// The units that use the device stopped with it. systemd starts again those that
	// another unit requires.
	b.MustRun("systemctl", "start", "multi-user.target")
	b.expect("systemctl is-active imxcrypt@data user-of-data; cat /data/kept", "active\nactive\na year of work")
	if after := b.show("data.mount", "ActiveEnterTimestampMonotonic"); after == before {
		b.t.Errorf("restart has not mounted the volume again")
	}

	b.t.Log("what is busy stays, and the reason is reported")
	user := b.StartCommand(vm.Command{Argv: []string{"sleep", "1000"}, Dir: "/data"})
	began := time.Now()
	b.Run("systemctl", "stop", "imxcrypt@data")
	b.t.Logf("stopping a busy volume fails after %v", time.Since(began).Round(time.Millisecond))
	b.has(b.journal("-b", "-u", "imxcrypt@data", "-p", "3"), "/data")
	b.expect("cat /data/kept", "a year of work")
	user.Kill()
	user.Wait()
	b.MustRun("systemctl", "start", "data.mount", "imxcrypt@data")
	b.expect("systemctl is-active imxcrypt@data data.mount; cat /data/kept", "active\nactive\na year of work")
}

// privileges checks the sandbox, and that the key needs no particular session.
func (b board) privileges() {
	b.t.Helper()
	b.t.Log("the unit is in a sandbox")
	for property, want := range map[string]string{
		"KeyringMode": "private", "NoNewPrivileges": "yes", "MemoryDenyWriteExecute": "yes", "LockPersonality": "yes",
		"ProtectClock": "yes", "ProtectHostname": "yes", "RestrictSUIDSGID": "yes", "RestrictRealtime": "yes",
		"RestrictNamespaces": "mnt", "SystemCallArchitectures": "native", "LimitCORE": "0",
	} {
		if got := b.show("imxcrypt@data.service", property); got != want {
			b.t.Errorf("%s is %s, expected %s", property, got, want)
		}
	}
	b.MustRun("systemctl", "stop", "data.mount")
	const unlock = "imxcrypt lock data >/dev/null && imxcrypt unlock --mount data"
	for what, script := range map[string]string{
		"a service without a session keyring": service(unlock, "inherit"),
		"a service with one of its own":       service(unlock, "private"),
		"a login shell":                       "echo '" + unlock + "; exit' | script -qec 'login -f root' /dev/null",
	} {
		r := b.Sh(script)
		if !strings.Contains(r.Stdout, "mounted on /data") {
			b.t.Errorf("unlocking from %s: %v", what, r)
		}
		b.noKeyLeft()
	}
}

// service runs a command as a child of PID 1, and prints its output.
func service(command, keyringMode string) string {
	return "printf '[Service]\nType=oneshot\nKeyringMode=" + keyringMode + "\nStandardOutput=file:/run/output\nStandardError=inherit\nExecStart=sh -c \"" +
		command + "\"\n' >/run/systemd/system/try.service; systemctl daemon-reload; rm -f /run/output; systemctl start try; cat /run/output"
}

func (b board) busyShutdown() {
	b.t.Helper()
	b.t.Log("a busy filesystem does not hold up the shutdown")
	b.StartCommand(vm.Command{Argv: []string{"sleep", "1000"}, Dir: "/data"})
	began := time.Now()
	b.PowerOff() // fails long before systemd would give up waiting
	b.t.Logf("powered off after %.1f s, with a busy filesystem", time.Since(began).Seconds())
}

func (b board) laterBoot() {
	b.t.Helper()
	b.mustAwait("multi-user.target")
	b.t.Log("the volumes are there before their users, and were not made again")
	user := b.journal("-b", "-u", "user-of-data")
	b.has(user, "/dev/mapper/data rw,noatime")
	b.has(user, "a year of work")
	b.swapped()
	b.eventually("already", "-u", "imxcrypt-provision@data")
	b.eventually("data: unlocked", "-u", "imxcrypt@data")
	b.eventually(provedInDebug, "-u", "imxcrypt@data")
	b.t.Log("the volume with at_boot: false was left alone, and is there when it is asked for")
	b.expect("systemctl is-active imxcrypt@spare srv-spare.mount; udevadm settle; ls /dev/mapper", "inactive\ninactive\ncontrol\ndata\nlogs\npages")
	b.MustRun("systemctl", "start", "srv-spare.mount")
	b.expect("systemctl is-active imxcrypt@spare; cat /srv/spare/kept", "active\nfor a rainy day")
	if strings.Contains(b.journal("-b", "-k"), "data recovery") {
		b.t.Log("the filesystem was left in use by the busy shutdown")
	}
	b.noKeyLeft()
}

// orderlyShutdown checks that everything is stopped in reverse order.
func (b board) orderlyShutdown(before func()) {
	b.t.Helper()
	before()
	began := time.Now()
	b.PowerOff()
	b.t.Logf("powered off after %.1f s", time.Since(began).Seconds())
	console := b.Console()
	position := -1
	for _, line := range []string{"Stopped user-of-data.service", "Unmounted data.mount", "Stopped imxcrypt@data.service", "Reached target umount.target"} {
		at := strings.LastIndex(console, line)
		if at < position || at < 0 {
			b.t.Errorf("%q does not come in its place:\n%s", line, console)
		}
		position = at
	}
}

func (b board) invalidConfiguration() {
	b.t.Helper()
	b.mustAwait("emergency.target")
	b.t.Log("an invalid configuration ends in the emergency mode, and says why")
	b.eventually("volumes[0].mont", "-u", "imxcrypt-generator-failed", "-p", "3")
	b.eventually("imxcrypt-generator: ", "-k", "-p", "3")
	b.has(b.Console(), "volumes[0].mont")
	b.expect("udevadm settle; ls /dev/mapper; findmnt /data", "control")
	b.t.Log("once it is repaired, the boot continues")
	b.MustSh("sed -i 's/mont:/mount:/' /etc/imxcrypt/imxcrypt.yaml && imxcrypt config check && systemctl daemon-reload && systemctl --no-block default")
	b.mustAwait("multi-user.target")
	b.expect("cat /data/kept", "a year of work")
	b.expect("systemctl list-units --failed --plain --no-legend 'imxcrypt*'", "")
}

// nothingWorks boots a disk on the wrong board, with a required volume on a device that
// does not exist.
func (b board) nothingWorks() {
	b.t.Helper()
	b.mustAwait("emergency.target")
	b.t.Log("required volumes that cannot be opened end in the emergency mode, with the reason")
	b.eventually("the hardware rejected the blob", "-u", "imxcrypt@data", "-p", "3")
	b.has(b.Console(), "the hardware rejected the blob")
	if got := b.show("imxcrypt@data", "ExecMainStatus"); got != "3" {
		b.t.Errorf("imxcrypt@data has exit code %s", got)
	}
	b.expect("udevadm settle; ls /dev/mapper; findmnt /data", "control\npages")
	// Not by unit: on a busy host this is printed before the journal has started.
	b.eventually("Timed out waiting for device dev-vdy.device")
	b.t.Log("of a device that is missing imxcrypt says so, where boot.md has one look, and no further unit fails")
	b.eventually(`unlock gone: device "/dev/vdy" not found`, "-p", "err", "-u", "imxcrypt*")
	b.has(b.Console(), `unlock gone: device "/dev/vdy" not found`)
	b.expect("systemctl list-units --failed --plain --no-legend 'imxcrypt-missing*'; journalctl -b -q -u imxcrypt-missing@data -p err", "")
	b.has(b.Console(), "Dependency failed for")
}
