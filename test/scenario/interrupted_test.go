// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// interruptions returns how often each signal interrupts a provisioning, spread evenly
// over the duration of a complete one. SIGINT takes the same path as SIGTERM.
func interruptions() map[string]int { return map[string]int{"KILL": 5, "TERM": 5, "INT": 2} }

// Whenever provisioning is killed, the next run recognises what it left: it finishes
// with the same key, or starts over if nothing had begun.
func TestInterruptedProvisioning(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		for signal, moments := range interruptions() {
			t.Run(signal, func(t *testing.T) {
				x := b.bench(t)
				x.configure(x.loop("whole"))
				whole := x.expect(0, "mounted on", "provision", "data").Duration
				x.expect(0, "locked", "lock", "data")
				for i := range moments {
					after := whole * time.Duration(i+1) / time.Duration(moments+1)
					x.configure(x.loop(fmt.Sprint("disk", i)))
					r := x.Sh(fmt.Sprintf("%s provision -v data & p=$!; sleep %.3f; kill -%s $p; wait $p",
						strings.Join(x.command(), " "), after.Seconds(), signal))
					t.Logf("SIG%s after %v: exit %d\n%s", signal, after, r.Code, r.Stderr)
					if signal != "KILL" {
						// Before provisioning has begun, the program has no handler
						// yet.
						early := r.Code > 128 && strings.TrimSpace(strings.ReplaceAll(r.Stderr, "Terminated", "")) == ""
						if r.Code != 7 && r.Code != 0 && !early {
							t.Errorf("exit code %d, expected 7, or 0 if it was done", r.Code)
						}
						if left := x.MustRun("dmsetup", "ls"); strings.Contains(left, ":") && !strings.Contains(left, "data\t") {
							t.Errorf("left behind: %s", left)
						}
					}
					before := x.uuid()
					x.expect(0, "mounted on", "provision", "data")
					if now := x.uuid(); before != "" && now != before {
						t.Errorf("a second header: uuid %s, then %s", before, now)
					}
					x.expect(0, "locked", "lock", "data")
					if left := x.MustRun("dmsetup", "ls"); !strings.Contains(left, "No devices") {
						t.Errorf("left behind: %s", left)
					}
				}
				x.powerCycle()
				x.expect(0, "mounted on", "boot")
			})
		}
	})
}

// uuid returns the volume's UUID from status, or "" if there is no header yet.
func (x *bench) uuid() string {
	x.t.Helper()
	r := x.imxcrypt("status", "--json")
	var status struct {
		Volumes []struct{ UUID, State string }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &status); err != nil || len(status.Volumes) != 1 {
		x.t.Fatalf("status: %v, %v", err, r)
	}
	return status.Volumes[0].UUID
}

// Two commands at once on one volume: the second names the first.
func TestTwoAtOnce(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		x.configure(x.loop("disk"))
		// Each job takes this long, and creating a key takes two.
		x.chip("latency_us", "20000000", "0")
		p := x.Start(x.command("provision", "data")...)
		x.MustSh("until [ -s /run/imxcrypt/data.lock ]; do sleep 0.1; done")
		// It must keep the lock however long the others take on a busy host.
		p.Signal(syscall.SIGSTOP)
		for _, args := range [][]string{{"provision", "data"}, {"unlock", "data"}, {"verify", "data"}, {"boot"}} {
			r := x.expect(5, fmt.Sprintf("held by process %d", p.PID()), args...)
			if !strings.Contains(r.Stderr, "provision data") {
				t.Errorf("%s: who holds it is not said", args[0])
			}
		}
		x.expect(1, "unprovisioned", "status")
		x.chip("latency_us", "0", "")
		p.Signal(syscall.SIGCONT)
		if r := p.Wait(); r.Code != 0 {
			t.Fatalf("the first: %v", r)
		}
		x.expect(0, "already", "provision", "data")
	})
}

// Whenever opening is interrupted, the volume is either open or not, and the next boot
// finishes. The program has no signal handler until it has to wait.
func TestInterruptedBoot(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		x.configure(x.loop("disk"))
		x.expect(0, "mounted on", "provision", "data")
		x.expect(0, "locked", "lock", "data")
		// The command comes first, as in the scripts of an initramfs. Only in this
		// order does the program have no handler until it has to wait.
		boot := func(more ...string) []string {
			return append([]string{x.program, "boot", "--config", x.dir + "/imxcrypt.yaml"}, more...)
		}
		whole := time.Hour
		for range 3 {
			whole = min(whole, x.expect(0, "mounted on", "boot").Duration)
			x.expect(0, "locked", "lock", "data")
		}
		const moments = 5
		interrupted := 0
		signals := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT}
		for _, signal := range signals {
			for i := range moments {
				p := x.Start(boot("-v")...)
				time.Sleep(whole * time.Duration(i) / moments)
				p.Signal(signal)
				r := p.Wait()
				t.Logf("%v at %d/%d: %v\n%s", signal, i, moments, r.Code, r.Stderr)
				if r.Code != 0 {
					interrupted++
				}
				status := x.imxcrypt("status").Stdout
				if node := x.Sh("test -e /dev/mapper/data").Code == 0; node == strings.Contains(status, " locked") {
					t.Errorf("there is a node: %v; the status is\n%s", node, status)
				}
				if i%2 == 0 {
					x.expect(0, "data", "boot")
					x.expect(0, "mounted", "status")
				}
				x.expect(0, "locked", "lock", "data")
				if left := x.MustRun("dmsetup", "ls"); !strings.Contains(left, "No devices") {
					t.Errorf("left behind: %s", left)
				}
			}
		}
		t.Logf("%d of %d boots were interrupted", interrupted, moments*len(signals))

		// On a busy host all of these signals may come too late. One sent while the
		// chip works does not.
		for _, signal := range signals[1:] {
			x.chip("latency_us", "20000000", "0")
			x.MustSh(": >/run/imxcrypt/data.lock")
			p := x.Start(boot()...)
			x.MustSh("until [ -s /run/imxcrypt/data.lock ]; do sleep 0.1; done")
			p.Signal(signal)
			x.chip("latency_us", "0", "")
			if r := p.Wait(); r.Signal != signal {
				t.Errorf("a boot that opens its key did not die of %v: %v", signal, r)
			}
		}

		x.configureText("  - {name: data, device: /dev/absent, timeout: 1m}\n")
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			p := x.Start(boot()...)
			// Wait until the program listens for the device, and then for it to wait.
			x.MustSh(fmt.Sprintf("until ls -l /proc/%d/fd | grep -q socket: || ! [ -d /proc/%[1]d ]; do sleep 0.1; done; sleep 2", p.PID()))
			p.Signal(signal)
			if r := p.Wait(); r.Code != 7 {
				t.Errorf("%v while a device is waited for: exit code %d, expected 7\n%s", signal, r.Code, r.Stderr)
			}
		}
	})
}
