// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// systemctl suspend with the drop-in: PID 1 and everything that systemd started are
// frozen with the other processes, and continue. A rotation that a unit runs is paused
// and started again.
func TestSystemdSleeps(t *testing.T) {
	t.Parallel()
	if os.Getenv("IMXCRYPT_SOAK") == "" {
		t.Skip("NOT TESTED: two minutes, by make soak only (IMXCRYPT_SOAK=1); TestSleep of the scenarios does the same without systemd")
	}
	f := files{
		"/etc/imxcrypt/imxcrypt.yaml":                                 text("volumes:\n  - {name: data, device: /dev/vdb, mount: {path: /data}, timeout: 10m}\n"),
		"/etc/systemd/system/systemd-suspend.service.d/imxcrypt.conf": {Host: "../../packaging/systemd/systemd-suspend.service.d/imxcrypt.conf", Mode: 0o644},
		"/opt/load": {Host: vm.BuildProgram(t, "./test/load", "amd64")},
		// The command line of a unit, slow enough to be caught in the middle.
		"/etc/systemd/system/imxcrypt-rotate@.service.d/slow.conf": text("[Service]\nExecStart=\nExecStart=/usr/bin/imxcrypt rotate --resume-only --rate-limit 1MiB %I\n"),
	}
	f.enabled("cryptsetup.target", "imxcrypt-provision@data.service", "imxcrypt-provision@.service")
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.AMD64, Root: "/dev/vda", Suspend: true, SimCAAM: &vm.SimCAAM{Closed: true},
		Disks: []*vm.Disk{newRoot(t, vm.AMD64, f), vm.NewDisk(t, 12<<20)},
	})}
	b.mustAwait("multi-user.target")
	b.MustSh("echo deep >/sys/power/mem_sleep; findmnt /data")
	load := b.Start("/opt/load", "/data")
	load.WaitFor("begun", 3*time.Minute)

	slept := b.suspend()
	if !slept {
		t.Fatal("the machine did not really sleep")
	}
	b.has(b.journal("-b", "-u", "systemd-suspend.service"), "awake again; in use as before: data")

	b.MustRun("imxcrypt", "rotate", "--init-only", "data")
	b.MustRun("systemctl", "start", "imxcrypt-rotate@data.service")
	b.MustSh("for i in $(seq 100); do dmsetup ls | grep -q data:hot && exit; sleep 0.1; done; exit 1")
	b.suspend()
	journal := b.journal("-b", "-u", "imxcrypt-rotate@data.service")
	b.has(journal, "rotation paused")
	b.MustSh("for i in $(seq 200); do dmsetup ls | grep -q data: || exit 0; sleep 0.3; done; imxcrypt status; dmsetup ls; exit 1")
	b.has(b.journal("-b", "-u", "imxcrypt-rotate@data.service"), "data: rotated, generation 2")
	load.Signal(syscall.SIGTERM)
	r := load.Wait()
	t.Logf("load: %s", strings.TrimSpace(r.Stdout))
	if r.Code != 0 {
		t.Fatalf("the load failed: %v", r)
	}
	b.MustSh("echo 3 >/proc/sys/vm/drop_caches; /opt/load -verify /data")
	if failed := b.MustRun("systemctl", "--failed", "--no-legend"); strings.TrimSpace(failed) != "" {
		t.Errorf("failed units: %s", failed)
	}
}

// suspend suspends the machine, and wakes it if it really sleeps: with QEMU's q35 it
// does so only once, and later the kernel comes up at once.
func (b board) suspend() (slept bool) {
	b.t.Helper()
	p := b.Start("systemctl", "start", "systemd-suspend.service")
	for deadline := time.Now().Add(3 * time.Minute); p.Running() && !slept; time.Sleep(100 * time.Millisecond) {
		slept = strings.Contains(string(b.QMP("query-status", nil)), `"suspended"`)
		if time.Now().After(deadline) {
			b.t.Fatal("the machine does not sleep")
		}
	}
	if slept {
		b.QMP("system_wakeup", nil)
	}
	if r := p.Wait(); r.Code != 0 {
		b.t.Fatalf("%v\n%s", r, b.journal("-b", "-u", "systemd-suspend.service"))
	}
	return slept
}
