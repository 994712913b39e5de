// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// suspend runs a command that suspends the board, and returns its result. This kernel
// supports only s2idle, from which the clock's alarm wakes it. Meanwhile a CAAM loses
// the key that encrypts its black keys, as in a real suspend to RAM.
func (b board) suspend(keys vm.KeyHardware, argv ...string) vm.Result {
	b.t.Helper()
	const asleep = "PM: suspend entry (s2idle)"
	b.MustSh("dmesg -n 7") // so that the console shows it
	before := strings.Count(b.Console(), asleep)
	// Always ahead of the board, however long it takes to suspend. The alarm is set
	// before the command starts, and then only pushed back: the kernel stops the loop
	// anywhere, and without an alarm the board sleeps for ever.
	b.MustSh("cd /sys/class/rtc/rtc0; echo 0 >wakealarm; echo +20 >wakealarm")
	alarm := b.Start("sh", "-c", "cd /sys/class/rtc/rtc0; while sleep 2; do echo +=3 >wakealarm || echo +20 >wakealarm; done")
	p := b.Start(argv...)
	for deadline := time.Now().Add(3 * time.Minute); p.Running() && strings.Count(b.Console(), asleep) == before; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatal("the board does not sleep")
		}
	}
	if keys == vm.CAAM {
		b.losePower()
	}
	r, err := p.TryWait(3 * time.Minute)
	if err != nil {
		b.t.Fatalf("the board does not wake: %v", err)
	}
	alarm.Signal(syscall.SIGTERM)
	alarm.Wait()
	if strings.Count(b.Console(), asleep) == before {
		b.t.Errorf("the board did not sleep: %v", r)
	}
	return r
}

// losePower makes the CAAM lose the key that encrypts its black keys.
func (b board) losePower() {
	b.t.Helper()
	b.QMP("qom-set", map[string]any{"path": "/machine/fsl-caam", "property": "power-loss", "value": true})
}

// A suspend does not harm a volume with a trusted key, which the kernel holds, and
// imxcrypt has nothing to do.
func TestTrustedVolumesSleep(t *testing.T) {
	eachSource(t, func(t *testing.T, s source) {
		m := vm.Mainline{Keys: s.keys, Kernel: s.kernel}
		if s.keys == vm.TPM2 {
			m.TPM = vm.NewTPM(t)
		}
		b := board{t: t, Machine: vm.Start(t, vm.Config{
			Arch: vm.ARM64, Mainline: &m, Disks: []*vm.Disk{vm.NewDisk(t, 64<<20)},
			Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "arm64"),
		})}
		b.configure(trustedVolume)
		b.MustSh("imxcrypt provision data && head -c 4194304 /dev/urandom >/data/file && sha256sum /data/file >/tmp/sum")
		check := func(when string) {
			t.Helper()
			if r := b.Sh("echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /tmp/sum && touch /data/written && sync"); r.Code != 0 {
				t.Errorf("%s: %v", when, r)
			}
		}
		b.says("imxcrypt sleep --dry-run suspend", 0, "would suspend to RAM: no volume is unlocked with a key of the chip")
		if r := b.suspend(s.keys, "imxcrypt", "sleep", "suspend"); r.Code != 0 || !strings.Contains(r.Stdout, "awake again; in use as before: data") {
			t.Errorf("imxcrypt sleep suspend: %v", r)
		}
		check("after imxcrypt sleep suspend")
		if r := b.suspend(s.keys, "sh", "-c", "echo freeze >/sys/power/state"); r.Code != 0 {
			t.Errorf("a suspend without imxcrypt: %v", r)
		}
		b.says("imxcrypt sleep resume", 0, "data: no key is lost")
		check("after a suspend without imxcrypt")
		b.MustSh("imxcrypt verify data && imxcrypt lock data && imxcrypt unlock --mount data")
		check("unlocked again")
	})
}
