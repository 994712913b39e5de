// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"syscall"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// forEachArch runs a test on every architecture in parallel.
func forEachArch(t *testing.T, test func(t *testing.T, arch vm.Arch)) {
	t.Parallel()
	for _, arch := range vm.Arches() {
		t.Run(string(arch), func(t *testing.T) {
			t.Parallel()
			test(t, arch)
		})
	}
}

func TestProgramsInTheGuest(t *testing.T) {
	forEachArch(t, func(t *testing.T, arch vm.Arch) {
		m := vm.Shared(t, arch)
		t.Run("exit code and both streams", func(t *testing.T) {
			r := m.Sh("echo out; echo err >&2; exit 7")
			if r.Code != 7 || r.Signal != 0 || r.Stdout != "out\n" || r.Stderr != "err\n" {
				t.Errorf("got %v", r)
			}
			if r.Duration <= 0 || r.Duration > time.Minute {
				t.Errorf("a shell took %v", r.Duration)
			}
		})
		t.Run("end by a signal", func(t *testing.T) {
			if r := m.Sh("kill -TERM $$"); r.Code != -1 || r.Signal != syscall.SIGTERM {
				t.Errorf("got %v", r)
			}
		})
		t.Run("a program that is not there", func(t *testing.T) {
			_, err := m.TryRun(context.Background(), vm.Command{Argv: []string{"no-such-program"}})
			if err == nil || !strings.Contains(err.Error(), "no-such-program: not found") {
				t.Errorf("got %v", err)
			}
		})
		t.Run("environment, folder and input", func(t *testing.T) {
			r := m.RunCommand(vm.Command{
				Argv: []string{"sh", "-c", `pwd; echo "$COLOUR"; cat; echo "$DM_DISABLE_UDEV"`},
				Env:  []string{"COLOUR=green"}, Dir: "/usr", Stdin: []byte("typed\n"),
			})
			if r.Stdout != "/usr\ngreen\ntyped\n1\n" {
				t.Errorf("got %v", r)
			}
		})
		t.Run("time limit", func(t *testing.T) {
			r, err := m.TryRun(context.Background(), vm.Command{
				Argv: []string{"sh", "-c", "echo begun; sleep 1000"}, Timeout: 10 * time.Second,
			})
			if !errors.Is(err, context.DeadlineExceeded) || r.Stdout != "begun\n" {
				t.Errorf("got %v, %v", r, err)
			}
		})
		t.Run("a daemon that keeps the output open", func(t *testing.T) {
			began := time.Now()
			r := m.Sh("echo here; sleep 600 &")
			if took := time.Since(began); r.Stdout != "here\n" || took > 5*time.Minute {
				t.Errorf("got %v after %v", r, took)
			}
		})
		t.Run("large output", func(t *testing.T) {
			r := m.Sh("seq 1 200000; seq 1 1000 >&2")
			if lines := strings.Count(r.Stdout, "\n"); lines != 200000 || !strings.HasSuffix(r.Stdout, "\n200000\n") {
				t.Errorf("got %d lines of 200000", lines)
			}
			if lines := strings.Count(r.Stderr, "\n"); lines != 1000 {
				t.Errorf("got %d lines of 1000 on stderr", lines)
			}
		})
		t.Run("no zombies stay", func(t *testing.T) {
			m.MustSh("for i in 1 2 3 4 5; do (sleep 0.1 & exec true) & done; wait; sleep 1")
			if out := m.Sh("for i in $(seq 600); do out=$(grep -l '^State:.Z' /proc/[0-9]*/status); [ -n \"$out\" ] || break; sleep 0.1; done; echo -n \"$out\"").Stdout; out != "" {
				t.Errorf("zombies: %s", out)
			}
		})
		t.Run("processes in the background", func(t *testing.T) {
			p := m.Start("sh", "-c", "trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.1; done")
			p.WaitFor("ready", 5*time.Minute)
			if !p.Running() || p.PID() < 2 {
				t.Errorf("running %v, pid %d", p.Running(), p.PID())
			}
			p.Signal(syscall.SIGUSR1)
			if r := p.Wait(); r.Code != 3 || r.Stdout != "ready\ngot it\n" {
				t.Errorf("got %v", r)
			}
			p = m.Start("sh", "-c", "sleep 1234 & echo $!; wait")
			p.WaitFor("\n", 5*time.Minute)
			p.Kill()
			if r := p.Wait(); r.Signal != syscall.SIGKILL {
				t.Errorf("got %v", r)
			}
			if r := m.Sh("kill -0 " + strings.TrimSpace(p.Stdout())); r.Code == 0 {
				t.Error("what the killed process had started is still there")
			}
		})
	})
}

func TestFilesToAndFromTheGuest(t *testing.T) {
	forEachArch(t, func(t *testing.T, arch vm.Arch) {
		m := vm.Shared(t, arch)
		data := make([]byte, 3<<20+17)
		rand.New(rand.NewSource(1)).Read(data)
		for _, size := range []int{0, 1, 64 << 10, len(data)} {
			m.Put("/tmp/some/folder/file", data[:size])
			if got := m.Get("/tmp/some/folder/file"); !bytes.Equal(got, data[:size]) {
				t.Errorf("of %d bytes %d came back, or others", size, len(got))
			}
		}
		if err := m.TryPut("/proc/no/file", nil, 0o600); err == nil {
			t.Error("put into /proc: no error")
		}
		if _, err := m.TryGet("/tmp/absent"); err == nil {
			t.Error("get of an absent file: no error")
		}
		if err := m.TryPut("/tmp/secret", []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if mode := m.MustRun("stat", "-c", "%a", "/tmp/secret"); mode != "600\n" {
			t.Errorf("mode %s", mode)
		}
	})
}

func TestDisks(t *testing.T) {
	forEachArch(t, func(t *testing.T, arch vm.Arch) {
		plain, large := vm.NewDisk(t, 32<<20), vm.NewDisk(t, 32<<20)
		plain.Serial, large.BlockSize = "plain-disk", 4096
		m := vm.Start(t, vm.Config{Arch: arch, Disks: []*vm.Disk{plain, large}})
		if got := m.MustSh("cat /sys/block/vda/serial"); strings.TrimSpace(got) != "plain-disk" {
			t.Errorf("serial %q", got)
		}
		for disk, want := range map[string]string{"vda": "512\n512\n", "vdb": "4096\n4096\n"} {
			if got := m.MustSh("cd /sys/block/" + disk + "/queue && cat logical_block_size physical_block_size"); got != want {
				t.Errorf("%s: block sizes %q, want %q", disk, got, want)
			}
		}
		m.MustSh("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo kept > /mnt/file && sync")

		// A machine loses power while it works.
		p := m.Start("sh", "-c", "echo begun; sleep 1000")
		p.WaitFor("begun", 5*time.Minute)
		m.PowerCut()
		if _, err := p.TryWait(5 * time.Minute); !errors.Is(err, vm.ErrGone) {
			t.Errorf("after a power cut a process ends with %v", err)
		}
		if _, err := m.TryRun(context.Background(), vm.Command{Argv: []string{"true"}}); !errors.Is(err, vm.ErrGone) {
			t.Errorf("without power a program ends with %v", err)
		}

		m.Restart(func(c *vm.Config) { c.Disks[1].ReadOnly = true })
		if got := m.MustSh("mount /dev/vda /mnt && cat /mnt/file && cat /sys/block/vdb/ro"); got != "kept\n1\n" {
			t.Errorf("after the power cut: %q", got)
		}

		late := vm.NewDisk(t, 16<<20)
		late.Serial = "late-disk"
		if r := m.Sh("test -b /dev/vdc"); r.Code == 0 {
			t.Error("the late disk is there at once")
		}
		m.HotPlug(late, time.Second)
		m.MustSh("for i in $(seq 3000); do test -b /dev/vdc && break; sleep 0.2; done; cat /sys/block/vdc/serial")

		m.MustSh("echo unsynced > /mnt/file")
		m.PowerOff()
		m.Restart()
		if got := m.MustSh("mount /dev/vda /mnt && cat /mnt/file"); got != "unsynced\n" {
			t.Errorf("after an orderly power off: %q", got)
		}
	})
}

// The software stack on which everything here is tried: dm-crypt over a loop device,
// with the distribution's own tools.
func TestDeviceMapper(t *testing.T) {
	forEachArch(t, func(t *testing.T, arch vm.Arch) {
		m := vm.Shared(t, arch)
		for _, cipher := range []string{"aes-cbc-plain64", "aes-xts-plain64", "capi:cbc(aes)-plain64"} {
			got := m.MustSh(fmt.Sprintf(`
				truncate -s 16M /tmp/image
				loop=$(losetup -f --show /tmp/image)
				echo "0 32768 crypt %s $(printf %%064d 7) 0 $loop 0" | dmsetup create probe
				mkfs.ext4 -q /dev/mapper/probe
				mount /dev/mapper/probe /mnt
				echo content > /mnt/file
				umount /mnt
				blkid -o value -s TYPE /dev/mapper/probe
				dmsetup remove probe
				losetup -d $loop`, cipher))
			if got != "ext4\n" {
				t.Errorf("%s: got %q", cipher, got)
			}
			if image := m.Get("/tmp/image"); bytes.Contains(image, []byte("content")) || len(image) != 16<<20 {
				t.Errorf("%s: the plain text is on the disk of %d bytes", cipher, len(image))
			}
		}
	})
}

func TestToolsInTheGuest(t *testing.T) {
	forEachArch(t, func(t *testing.T, arch vm.Arch) {
		m := vm.Shared(t, arch)
		for program, argument := range map[string]string{
			"cryptsetup": "--version", "keyctl": "--version", "mkfs.xfs": "-V", "mkfs.btrfs": "--version",
			"mkfs.f2fs": "-V", "mkfs.vfat": "--help", "e2fsck": "-V", "dumpe2fs": "-V", "lsblk": "--version",
			"blkid": "--version", "sfdisk": "--version", "debugfs": "-V",
		} {
			if r := m.Run(program, argument); r.Code != 0 && !strings.Contains(r.Stdout+r.Stderr, "sage") {
				t.Errorf("%s: %v", program, r)
			}
		}
		for _, fs := range []string{"xfs", "f2fs", "btrfs", "vfat"} {
			m.MustSh(fmt.Sprintf(`truncate -s 320M /tmp/image; mkfs.%s /tmp/image >/tmp/log 2>&1 || { cat /tmp/log >&2; exit 1; }
				mount -o loop /tmp/image /mnt && echo x > /mnt/file && umount /mnt && rm /tmp/image`, fs))
		}
	})
}

func TestWithheldModules(t *testing.T) {
	t.Parallel()
	m := vm.Start(t, vm.Config{Arch: vm.AMD64, Withhold: []string{"dm-crypt"}})
	if r := m.Run("modprobe", "dm-crypt"); r.Code == 0 {
		t.Error("dm-crypt can be loaded")
	}
	if got := m.MustRun("dmsetup", "targets"); strings.Contains(got, "crypt") || !strings.Contains(got, "linear") {
		t.Errorf("targets: %s", got)
	}
}

// Late events of a machine, on which the scenarios for suspend and flushes depend.
func TestMonitor(t *testing.T) {
	t.Parallel()
	disk := vm.NewDisk(t, 16<<20)
	disk.LogWrites = disk.Path + ".log"
	m := vm.Start(t, vm.Config{Arch: vm.AMD64, Disks: []*vm.Disk{disk}, Suspend: true})
	if status := string(m.QMP("query-status", nil)); !strings.Contains(status, `"running"`) {
		t.Errorf("status %s", status)
	}
	m.MustSh("dd if=/dev/zero of=/dev/vda bs=4096 count=1 oflag=direct conv=fsync 2>/dev/null")
	assertLogWrites(t, disk.LogWrites)

	if got := m.MustSh("cat /sys/power/state"); !strings.Contains(got, "mem") {
		t.Fatalf("no suspend to RAM: %q", got)
	}
	p := m.Start("sh", "-c", "echo deep > /sys/power/mem_sleep; echo mem > /sys/power/state && echo awake")
	for range 900 {
		if strings.Contains(string(m.QMP("query-status", nil)), "suspended") {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	m.QMP("system_wakeup", nil)
	if r := p.Wait(); r.Stdout != "awake\n" {
		t.Errorf("suspend: %v", r)
	}
	m.MustRun("dd", "if=/dev/vda", "of=/dev/null", "bs=4096", "count=1", "iflag=direct")
}

// A kernel panic ends the machine at once; the console has its last messages.
func TestPanicEndsTheMachine(t *testing.T) {
	t.Parallel()
	m := vm.Start(t, vm.Config{Arch: vm.AMD64})
	began := time.Now()
	_, err := m.TryRun(context.Background(), vm.Command{Argv: []string{"sh", "-c", "echo c > /proc/sysrq-trigger"}})
	if !errors.Is(err, vm.ErrGone) || time.Since(began) > 3*time.Minute {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
	if !strings.Contains(m.Console(), "Kernel panic") {
		t.Errorf("console: %s", m.Console())
	}
}
