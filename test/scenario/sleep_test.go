// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// sleepVolumes has a volume of each wrap: with a stale key ccm fails, and ecb does not
// even fail.
const sleepVolumes = `volumes:
  - {name: data, device: /dev/vda, wrap: ccm, mount: /data}
  - {name: logs, device: /dev/vdb, wrap: ecb, mount: /logs}
`

// suspendable is a machine that can suspend to RAM, with two busy volumes.
type suspendable struct {
	board
	*vm.Machine
	t *testing.T
}

func newSuspendable(t *testing.T, b board) *suspendable {
	t.Helper()
	m := vm.Start(t, vm.Config{
		Arch: b.kernel, Suspend: b.kernel == vm.AMD64, SimCAAM: &vm.SimCAAM{Closed: true},
		Disks:    []*vm.Disk{vm.NewDisk(t, 8<<20), vm.NewDisk(t, 8<<20)},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", b.goarch),
	})
	m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(sleepVolumes))
	m.PutFile("/opt/load", vm.BuildProgram(t, "./test/load", b.goarch))
	m.MustSh("mkdir -p /data /logs")
	if b.kernel == vm.AMD64 {
		m.MustSh("echo deep >/sys/power/mem_sleep")
	} else {
		// QEMU's arm64 machines cannot suspend to RAM: the kernel suspends only as far
		// as its devices, and the chip loses its keys at the beginning.
		m.MustSh("echo devices >/sys/power/pm_test; echo 0 >/sys/module/suspend/parameters/pm_test_delay; echo 1 >/sys/module/imxcrypt_simcaam/parameters/shallow_resets")
	}
	return &suspendable{board: b, Machine: m, t: t}
}

// suspend runs the command that suspends the machine, wakes the machine as soon as it
// sleeps, and returns the result. slept reports whether the machine really slept:
// QEMU's q35 loses its power management registers in the first sleep, and in later ones
// the kernel goes all the way down and comes up at once.
func (s *suspendable) suspend(argv ...string) (r vm.Result, slept bool) {
	s.t.Helper()
	p := s.Start(argv...)
	for deadline := time.Now().Add(3 * time.Minute); p.Running() && !slept; time.Sleep(100 * time.Millisecond) {
		slept = strings.Contains(string(s.QMP("query-status", nil)), `"suspended"`)
		if time.Now().After(deadline) {
			s.t.Fatal("the machine does not sleep")
		}
	}
	if slept {
		s.QMP("system_wakeup", nil)
	}
	return p.Wait(), slept
}

// busy starts a load on each volume. The returned function ends the loads, and fails
// the test if one of them read a wrong byte.
func (s *suspendable) busy() (end func()) {
	loads := []*vm.Process{startLoad(s.Machine, "/data"), startLoad(s.Machine, "/logs")}
	return func() {
		s.t.Helper()
		for _, p := range loads {
			p.Signal(syscall.SIGTERM)
			r := p.Wait()
			s.t.Logf("load: %s", strings.TrimSpace(r.Stdout))
			if r.Code != 0 || strings.Contains(r.Stdout, "wrote 0 files") {
				s.t.Fatalf("the load failed: %v", r)
			}
		}
	}
}

// sound checks that what was written is there, past every cache, and that the
// filesystems are intact.
func (s *suspendable) sound() {
	s.t.Helper()
	s.MustSh("echo 3 >/proc/sys/vm/drop_caches; /opt/load -verify /data && /opt/load -verify /logs")
	s.expect(s.t, s.Run("imxcrypt", "lock", "--all"), 0, "locked")
	s.expect(s.t, s.Run("imxcrypt", "unlock", "--all"), 0, "unlocked")
	s.MustSh("for v in data logs; do e2fsck -fn /dev/mapper/$v; done")
	s.expect(s.t, s.Run("imxcrypt", "unlock", "--mount", "--all"), 0, "mounted")
}

// Two volumes in use sleep again and again, and no byte is read or written wrong. Then
// one key does not open after a sleep. Then the machine sleeps without imxcrypt.
func TestSleep(t *testing.T) {
	t.Parallel()
	for _, b := range []board{{vm.AMD64, "amd64"}, {vm.ARM64, "arm64"}} {
		t.Run(b.goarch, func(t *testing.T) {
			t.Parallel()
			b.soakBut(t, "amd64")
			newSuspendable(t, b).life()
		})
	}
}

func (s *suspendable) life() {
	t := s.t
	t.Helper()
	s.expect(t, s.Run("imxcrypt", "provision", "data", "logs"), 0, "mounted on /logs")
	rounds := 3
	if os.Getenv("IMXCRYPT_SOAK") != "" {
		rounds = 12
	}
	end := s.busy()
	for round := range rounds {
		time.Sleep(300 * time.Millisecond) // so that there is something to lose
		r, slept := s.suspend("imxcrypt", "sleep", "-v", "suspend")
		s.expect(t, r, 0, "awake again; in use as before: data, logs")
		if round == 0 && slept != (s.kernel == vm.AMD64) {
			t.Fatalf("the machine really slept: %v", slept)
		}
		if left := s.MustSh("ls -d /sys/fs/cgroup/imxcrypt* 2>/dev/null || true; cat /sys/power/sync_on_suspend"); left != "1\n" {
			t.Fatalf("round %d: left: %s", round, left)
		}
	}
	s.whileRotating()
	s.staysSuspended()
	end()
	s.sound()
	if log := s.MustRun("dmesg"); strings.Contains(log, "I/O error") || strings.Contains(log, "EXT4-fs error") {
		t.Fatalf("the kernel saw errors:\n%s", log)
	}
	s.withoutUs()
}

// whileRotating sleeps in the middle of a rotation: it is paused, both keys are
// restored, and it continues.
func (s *suspendable) whileRotating() {
	s.t.Helper()
	p := s.Start("imxcrypt", "rotate", "--rate-limit", "512KiB", "logs")
	for tries := 0; !strings.Contains(s.MustRun("dmsetup", "ls"), "logs:hot"); tries++ {
		if time.Sleep(100 * time.Millisecond); tries > 1800 {
			s.t.Fatal("the rotation does not move a zone")
		}
	}
	r, _ := s.suspend("imxcrypt", "sleep", "suspend")
	s.expect(s.t, r, 0, "rotate --resume-only")
	s.expect(s.t, p.Wait(), 7, "it continues where it stopped")
	if list := s.MustRun("dmsetup", "ls"); !strings.Contains(list, "logs:old") {
		s.t.Fatalf("the rotation was not in the middle:\n%s", list)
	}
	s.expect(s.t, s.Run("imxcrypt", "rotate", "--resume-only", "logs"), 0, "rotated, generation 2")
}

// staysSuspended makes the chip refuse one key after the sleep, however often it is
// tried. Then the key opens again.
func (s *suspendable) staysSuspended() {
	s.t.Helper()
	s.MustSh("cd /sys/module/imxcrypt_simcaam/parameters; echo 74 >fail_errno; echo 3 >resume_fail_imports") // EBADMSG
	r, _ := s.suspend("imxcrypt", "sleep", "--json", "suspend")
	s.expect(s.t, r, 3, `"code":"volume-stays-suspended"`)
	if got := s.MustSh("cat /sys/block/dm-*/dm/name /sys/block/dm-*/dm/suspended | tr '\\n' ' '"); got != "data logs 0 1 " {
		s.t.Fatalf("suspended: %s", got)
	}
	if log := s.MustRun("dmesg"); !strings.Contains(log, "imxcrypt: volume logs stays suspended; imxcrypt unlock logs") {
		s.t.Fatalf("the kernel log does not say it:\n%s", log)
	}
	if !strings.Contains(s.Console(), "imxcrypt unlock logs") {
		s.t.Fatal("the console does not say what to do")
	}
	s.expect(s.t, s.Run("imxcrypt", "unlock", "logs"), 0, "unlocked")
}

// withoutUs tests the premise: the kernel's own suspend leaves stale keys, which fail
// (CCM) or produce noise (ECB).
func (s *suspendable) withoutUs() {
	s.t.Helper()
	before := s.MustSh("sync; dd if=/dev/mapper/logs bs=1M count=4 iflag=direct 2>/dev/null | sha256sum")
	if r, _ := s.suspend("sh", "-c", "sync; echo mem >/sys/power/state"); r.Code != 0 {
		s.t.Fatal(r)
	}
	if r := s.Sh("dd if=/dev/mapper/data of=/dev/null bs=1M count=4 iflag=direct"); r.Code == 0 {
		s.t.Error("a stale key is not noticed with CCM")
	}
	if after := s.MustSh("dd if=/dev/mapper/logs bs=1M count=4 iflag=direct 2>/dev/null | sha256sum"); after == before {
		s.t.Error("the key is not stale")
	}
}
