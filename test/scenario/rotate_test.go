// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

const rotatedVolume = `volumes:
  - name: data
    device: DEVICE
    wrap: WRAP
MORE    mount: {path: /data}
`

// rotated is a board with one volume that is rotated while in use.
type rotated struct {
	board
	*vm.Machine
	t    *testing.T
	wrap string
	load string // path of the load program on the host
	// more holds additional lines of the volume's configuration.
	more string
	// device is the volume's device; empty: the disk itself.
	device string
}

// prepare installs what the guest needs after each boot.
func (r *rotated) prepare() {
	r.t.Helper()
	r.configureVolume()
	r.PutFile("/opt/load", r.load)
}

func (r *rotated) configureVolume() {
	r.t.Helper()
	device := r.device
	if device == "" {
		device = "/dev/vda"
	}
	r.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(strings.NewReplacer("WRAP", r.wrap, "DEVICE", device, "MORE", r.more).Replace(rotatedVolume)))
	r.MustSh("mkdir -p /data")
}

func (r *rotated) expect(code int, text string, args ...string) {
	r.t.Helper()
	r.board.expect(r.t, r.Run(append([]string{"imxcrypt"}, args...)...), code, text)
}

// busy starts the load. The returned function ends the load and checks its result.
func (r *rotated) busy() (end func()) {
	p := startLoad(r.Machine, "/data")
	return func() {
		r.t.Helper()
		p.Signal(syscall.SIGTERM)
		result := p.Wait()
		r.t.Logf("load: %s", strings.TrimSpace(result.Stdout))
		if result.Code != 0 {
			r.t.Fatalf("the load failed: %v", result)
		}
	}
}

func (r *rotated) verify() {
	r.t.Helper()
	result := r.Run("/opt/load", "-verify", "/data")
	r.t.Logf("verified: %s", strings.TrimSpace(result.Stdout))
	if result.Code != 0 {
		r.t.Fatal(result)
	}
}

// rotation returns the generation and the progress of the rotation from status.
func (r *rotated) rotation() (generation int, done, total int64) {
	r.t.Helper()
	return r.Rotation("data")
}

// onlyTheVolume checks that nothing of a rotation is left in the kernel.
func (r *rotated) onlyTheVolume(generation int) {
	r.t.Helper()
	if list := r.MustRun("dmsetup", "ls"); strings.Count(list, "\n") != 1 || !strings.HasPrefix(list, "data\t") {
		r.t.Fatalf("mappings: %s", list)
	}
	if table := r.MustRun("dmsetup", "table", "data"); !strings.Contains(table, " crypt ") {
		r.t.Fatalf("table: %s", table)
	}
	if g, _, total := r.rotation(); g != generation || total != 0 {
		r.t.Fatalf("generation %d, of a rotation of %d bytes", g, total)
	}
}

// A volume is rotated while it is mounted and written to: to the end, killed while it
// holds a zone, with a power cut, and stopped.
func TestRotation(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		board
		wrap string
	}{{board{vm.AMD64, "amd64"}, "ecb"}, {board{vm.ARM64, "arm64"}, "ccm"}} {
		t.Run(c.goarch+" "+c.wrap, func(t *testing.T) {
			t.Parallel()
			r := &rotated{board: c.board, t: t, wrap: c.wrap, load: vm.BuildProgram(t, "./test/load", c.goarch), more: "    allow_discards: true\n"}
			r.Machine = c.start(t, vm.NewDisk(t, 10<<20))
			r.prepare()
			r.expect(0, "mounted on /data", "provision", "data")
			r.wholly()
			r.killedWithAZoneHeld()
			r.powerCut()
		})
	}
}

func (r *rotated) wholly() {
	before := r.MustSh("dd if=/dev/vda bs=1M skip=3 count=1 2>/dev/null | sha256sum")
	end := r.busy()
	r.expect(0, `"ok":true`, "rotate", "--json", "data")
	end()
	r.onlyTheVolume(2)
	if after := r.MustSh("dd if=/dev/vda bs=1M skip=3 count=1 iflag=direct 2>/dev/null | sha256sum"); after == before {
		r.t.Fatal("the device was not encrypted again")
	}
	r.expect(0, "this chip opens it", "verify", "data")
}

// catch stops a rotation while it holds a zone, and kills it.
func (r *rotated) catch(p *vm.Process) bool {
	seen := map[string]int{}
	defer func() { r.t.Logf("overlay and hot mapping were seen as %v", seen) }()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline) && p.Running(); {
		p.Signal(syscall.SIGSTOP)
		// The overlay, and the hot mapping to which its table refers.
		states := strings.Fields(r.Sh(`dmsetup info data:rotate | sed -n 's/^State: *//p'
			for n in hot hot2; do
				number=$(dmsetup info -c --noheadings -o major,minor --separator : data:$n) && dmsetup table data:rotate | grep -q " $number " && dmsetup info data:$n | sed -n 's/^State: *//p'
			done`).Stdout)
		seen[strings.Join(states, " ")]++
		if len(states) == 2 && states[0] == "ACTIVE" && states[1] == "SUSPENDED" {
			p.Kill()
			return true
		}
		p.Signal(syscall.SIGCONT)
		// Long enough to get from one zone to the next, whatever the length.
		time.Sleep(20*time.Millisecond + rand.N(100*time.Millisecond))
	}
	return false
}

// killedWithAZoneHeld kills rotations that hold a zone while programs wait for it. The
// next command, whichever it is, lets them continue.
func (r *rotated) killedWithAZoneHeld() {
	before, _, _ := r.rotation()
	for _, next := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"lock", "data"}, 5, "unmount /data"},
		{[]string{"unlock", "data"}, 0, "already"},
		{[]string{"status", "data"}, 0, "data"},
		{[]string{"boot"}, 0, "already"},
	} {
		if r.goarch == "arm64" && next.code == 0 && !soak() {
			r.t.Run("killed with a zone held, then "+next.args[0], func(t *testing.T) {
				t.Skip("NOT TESTED: on arm64 by make soak only (IMXCRYPT_SOAK=1), here on amd64")
			})
			continue
		}
		// At times the load has no file open, and then lock could unmount.
		inside := r.StartCommand(vm.Command{Argv: []string{"sleep", "10000"}, Dir: "/data"})
		end := r.busy()
		caught := false
		for range 5 {
			p := r.Start("imxcrypt", "rotate", "--json", "--max-hold", "10s", "data")
			p.WaitFor(`"event":"progress"`, 3*time.Minute)
			if caught = r.catch(p); caught {
				break
			}
			r.t.Logf("not caught: %v", p.Wait())
		}
		if !caught {
			r.t.Fatal("no rotation was caught with a zone held")
		}
		r.expect(next.code, next.text, next.args...)
		if r.held() {
			r.t.Fatalf("%v left a zone held", next.args)
		}
		end()
		inside.Kill()
		inside.Wait()
	}
	end := r.busy()
	last := r.Run("imxcrypt", "rotate", "data")
	r.board.expect(r.t, last, 0, "rotated, generation")
	r.board.expect(r.t, last, 0, "`fstrim /data` gives them back")
	end()
	r.MustRun("fstrim", "/data")
	after, _, _ := r.rotation()
	if after <= before {
		r.t.Fatalf("generation %d after %d", after, before)
	}
	r.onlyTheVolume(after)
}

// held reports whether a mapping is suspended.
func (r *rotated) held() bool {
	r.t.Helper()
	return strings.Contains(r.MustRun("dmsetup", "info"), "SUSPENDED")
}

// powerCut cuts power in the middle of a rotation under load. The chip then has another
// JDKEK, so both blobs are opened again.
func (r *rotated) powerCut() {
	load := startLoad(r.Machine, "/data")
	p := r.Start("imxcrypt", "rotate", "--json", "--rate-limit", "256KiB", "data")
	p.WaitFor(`"event":"progress"`, 3*time.Minute)
	generation, done, total := r.rotation()
	if !load.Running() || !p.Running() || done == 0 || done >= total {
		r.t.Fatalf("the rotation stands at %d of %d", done, total)
	}
	r.Restart()
	r.prepare()
	r.expect(0, "mounted on /data", "boot")
	_, done, total = r.rotation()
	r.t.Logf("after the power cut: %d of %d bytes", done, total)
	if done == 0 || done >= total {
		r.t.Fatal("the rotation is not under way any more")
	}
	r.verify()
	r.expect(0, "this chip opens it", "verify", "data")
	r.stopped()
	end := r.busy()
	r.expect(0, "rotated, generation", "rotate", "--resume-only", "data")
	end()
	r.onlyTheVolume(generation + 1)
	r.expect(0, "locked", "lock", "data")
	r.expect(0, "mounted on /data", "unlock", "--mount", "data")
	r.verify()
	r.MustSh("umount /data && e2fsck -fn /dev/mapper/data")
}

// stopped stops a rotation with another command, and with a signal. Meanwhile the
// rotation keeps to its rate.
func (r *rotated) stopped() {
	const rate = 256 << 10
	end := r.busy()
	slowly := func() *vm.Process {
		p := r.Start("imxcrypt", "rotate", "--json", "--rate-limit", strconv.Itoa(rate), "data")
		p.WaitFor(`"event":"progress"`, 3*time.Minute)
		return p
	}
	_, before, _ := r.rotation()
	begun := time.Now()
	slow := slowly()
	r.expect(0, "paused", "rotate", "--pause", "data")
	if result := slow.Wait(); result.Code != 7 {
		r.t.Fatalf("the paused rotation: %v", result)
	}
	took := time.Since(begun)
	_, after, _ := r.rotation()
	r.t.Logf("%d bytes in %v at %d a second", after-before, took, rate)
	// In addition to what the time allows: the zone in which it was stopped.
	if after <= before || after-before > int64(rate*took.Seconds())+5<<18 {
		r.t.Fatal("the rate was not kept to")
	}
	slow = slowly()
	slow.Signal(syscall.SIGTERM)
	if result := slow.Wait(); result.Code != 7 {
		r.t.Fatalf("the rotation that was stopped: %v", result)
	}
	if r.held() {
		r.t.Fatal("a zone is held")
	}
	end()
}
