// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// bootVolumes has every kind of order: a volume in a volume, a mount point in a volume,
// a device that appears late, one that never appears, and one that is not opened at
// boot.
const bootVolumes = `volumes:
  - {name: inner, device: /dev/mapper/outer, mount: /srv/inner}
  - {name: logs, device: /dev/vdc, mount: /data/logs}
  - {name: outer, device: /dev/vda, filesystem: none}
  - {name: data, device: /dev/vdb, mount: /data}
  - {name: spare, device: /dev/vdd, mount: /srv/spare, at_boot: false}
  - {name: late, device: /dev/vde, mount: /srv/late, required: false, timeout: 5m}
  - {name: gone, device: /dev/vdy, mount: /srv/gone, required: false, timeout: 1s}
`

// bootRequired is another configuration, used through imxcrypt.config=.
const bootRequired = `volumes:
  - {name: data, device: /dev/vdb, mount: /data}
  - {name: logs, device: /dev/vdc, mount: /data/logs}
  - {name: gone, device: /dev/vdy, mount: /srv/gone, timeout: 1s}
`

// bootDebug is a step that is logged only with imxcrypt.debug or -v.
const bootDebug = "boot: configuration read"

// A busybox system without udev and systemd: one `imxcrypt boot` does everything.
func TestBootWithoutUdev(t *testing.T) { longScenario(t, bootWithoutUdev) }

func bootWithoutUdev(t *testing.T, b board) {
	var disks []*vm.Disk
	for range 5 {
		disks = append(disks, vm.NewDisk(t, 24<<20))
	}
	m := vm.Start(t, vm.Config{
		Arch: b.kernel, Disks: disks, SimCAAM: &vm.SimCAAM{Closed: true},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", b.goarch),
		ExtraFiles: map[string]vm.File{
			"/etc/imxcrypt/imxcrypt.yaml": {Data: []byte(bootVolumes)},
			"/etc/imxcrypt/required.yaml": {Data: []byte(bootRequired)},
		},
	})
	directories := func() { m.MustRun("mkdir", "-p", "/data", "/srv/inner", "/srv/spare", "/srv/late", "/srv/gone") }
	directories()
	m.MustSh(`imxcrypt provision outer; imxcrypt unlock outer; imxcrypt provision --wipe --yes inner
		imxcrypt provision data; mkdir /data/logs; imxcrypt provision logs spare late
		for d in /srv/inner /data /data/logs /srv/spare /srv/late; do echo "$d" >$d/name; done
		imxcrypt lock logs; imxcrypt lock inner; imxcrypt lock --all
		imxcrypt unlock data; debugfs -w -R 'set_super_value state 3' /dev/mapper/data; imxcrypt lock data`)

	late := disks[4]
	m.Restart(func(c *vm.Config) { c.Disks, c.Append = disks[:4], "imxcrypt.debug" })
	directories()
	boot := m.Start("imxcrypt", "boot")
	for m.Sh("grep -q ' /data/logs ' /proc/mounts && grep -q ' /srv/inner ' /proc/mounts").Code != 0 {
		if !boot.Running() {
			t.Fatalf("boot has ended: %v", boot.Wait())
		}
		time.Sleep(200 * time.Millisecond)
	}
	// The other volumes did not wait for the late one; boot still waits for it.
	if !boot.Running() {
		t.Fatalf("boot has ended without the late volume: %v", boot.Wait())
	}
	m.HotPlug(late, 0)
	r := boot.Wait()
	for _, text := range []string{
		"late: mounted on /srv/late", "data: filesystem checked", "boot continues without an optional volume",
		"volume=gone", bootDebug,
	} {
		b.expect(t, r, 0, text)
	}
	t.Logf("from the late device's announcement to its mount: %v", lateness(t, m))
	if got, want := m.MustSh("cat /srv/inner/name /data/name /data/logs/name /srv/late/name"), "/srv/inner\n/data\n/data/logs\n/srv/late\n"; got != want {
		t.Errorf("read back %q", got)
	}
	if keys := m.MustSh("cat /proc/keys"); strings.Contains(keys, "imxcrypt:") {
		t.Errorf("a key is left behind:\n%s", keys)
	}
	if strings.Contains(r.Stdout+r.Stderr, "spare") || m.Sh("test -e /dev/mapper/spare").Code == 0 {
		t.Errorf("a volume with at_boot: false was opened at boot")
	}
	b.expect(t, m.Run("imxcrypt", "boot", "spare"), 0, "spare: mounted on /srv/spare")
	if got := m.MustSh("cat /srv/spare/name"); got != "/srv/spare\n" {
		t.Errorf("read back %q", got)
	}
	// As on the real system, after an initramfs has opened the volumes.
	b.expect(t, m.Run("imxcrypt", "unlock", "--mount", "data", "inner", "late"), 0, "inner: mounted on /srv/inner (already)")
	b.expect(t, m.Run("imxcrypt", "boot", "data", "logs"), 0, "logs: mounted on /data/logs (already)")

	m.Restart(func(c *vm.Config) {
		c.Append = "imxcrypt.config=/etc/imxcrypt/required.yaml imxcrypt.volumes=data,gone,other"
	})
	directories()
	r = m.Run("imxcrypt", "boot")
	b.expect(t, r, 4, "volume=other")
	b.expect(t, r, 4, "data: mounted on /data")
	b.expect(t, r, 4, "/dev/vdy")
	if strings.Contains(r.Stdout+r.Stderr, bootDebug) {
		t.Errorf("steps are reported without imxcrypt.debug")
	}
	if m.Sh("grep -q /data/logs /proc/mounts").Code == 0 {
		t.Errorf("a volume that the kernel command line left out was opened")
	}
}

// The kernel command line is not a configuration, because anyone who can write the boot
// loader's environment can write it. A required volume that it leaves out is reported
// on the console, in the kernel log and by status.
func TestTheKernelCommandLineNarrowsOnly(t *testing.T) {
	t.Parallel()
	b := board{vm.AMD64, "amd64"}
	m := vm.Start(t, vm.Config{
		Arch: b.kernel, Disks: []*vm.Disk{vm.NewDisk(t, 12<<20), vm.NewDisk(t, 12<<20)}, SimCAAM: &vm.SimCAAM{Closed: true},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", b.goarch),
		ExtraFiles: map[string]vm.File{
			"/etc/imxcrypt/imxcrypt.yaml": {Data: []byte("volumes:\n  - {name: data, device: /dev/vda, mount: /data}\n  - {name: logs, device: /dev/vdb, mount: /logs}\n")},
			"/etc/imxcrypt/cmdline.yaml":  {Link: "/proc/cmdline"},
			"/usr/share/other.yaml":       {Data: []byte("volumes:\n  - {name: data, device: /dev/vda, mount: /elsewhere}\n")},
		},
	})
	directories := func() { m.MustRun("mkdir", "-p", "/data", "/logs", "/elsewhere") }
	directories()
	m.MustRun("imxcrypt", "provision", "data", "logs")
	m.MustRun("imxcrypt", "lock", "--all")

	for _, named := range []string{"/proc/cmdline", "/proc/self/cmdline", "/etc/imxcrypt/cmdline.yaml", "/usr/share/other.yaml", "/etc/imxcrypt/../../usr/share/other.yaml"} {
		m.Restart(func(c *vm.Config) { c.Append = "imxcrypt.config=" + named })
		directories()
		b.expect(t, m.Run("imxcrypt", "boot"), 2, "imxcrypt.config=")
		if r := m.Sh("dmsetup ls; grep -E 'data|logs|elsewhere' /proc/mounts"); strings.TrimSpace(r.Stdout) != "No devices found" {
			t.Fatalf("%s: something was opened: %v", named, r)
		}
	}

	m.Restart(func(c *vm.Config) { c.Append = "imxcrypt.volumes=logs" })
	directories()
	r := m.Run("imxcrypt", "boot")
	b.expect(t, r, 0, "logs: mounted on /logs")
	b.expect(t, r, 0, "leaves out a volume that is required")
	b.expect(t, r, 0, "volume=data")
	const said = "volume data is required, and imxcrypt.volumes= on the kernel command line leaves it out"
	for place, text := range map[string]string{"kernel log": m.MustRun("dmesg"), "console": m.Console()} {
		if !strings.Contains(text, said) || strings.Contains(text, "volume logs is required") {
			t.Errorf("the %s does not say what was left out:\n%s", place, text)
		}
	}
	b.expect(t, m.Run("imxcrypt", "status"), 1, "data is required, and imxcrypt.volumes=")
	b.expect(t, m.Run("imxcrypt", "status", "--json"), 1, `"left_out":true`)
}

// lateness returns the time from the kernel's message about the late disk to its
// message about mounting that disk's filesystem, which is the last mount. The time is
// reported, not checked: it depends more on how busy the host is than on the program.
func lateness(t *testing.T, m *vm.Machine) time.Duration {
	t.Helper()
	log := m.MustRun("dmesg")
	at := func(pattern string) time.Duration {
		all := regexp.MustCompile(`\[ *(\d+\.\d+)\] .*`+pattern).FindAllStringSubmatch(log, -1)
		if len(all) == 0 {
			t.Fatalf("the kernel says nothing of %q:\n%s", pattern, log)
		}
		seconds, err := strconv.ParseFloat(all[len(all)-1][1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(seconds * float64(time.Second))
	}
	return at(`EXT4-fs \(dm-\d+\): mounted filesystem`) - at(`\[vde\]`)
}
