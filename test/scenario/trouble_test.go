// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// trouble is a volume on a real kernel to which things happen: its header is damaged,
// another program takes its device, its keys are lost in an unannounced suspend.
type trouble struct {
	*life
	backups []string
	// configuration is the volume's configuration.
	configuration string
	size          int64 // of the device
	counts        map[string]int
	given         int // commands run
}

const diskSize = 12 << 20

// ownChip is the fused key of the volume's board.
const ownChip = 1

// chip moves the disk to a board with another chip.
func (x *trouble) chip(otpmk uint64) {
	x.t.Helper()
	x.MustSh(fmt.Sprintf("echo %064x > /sys/module/imxcrypt_simcaam/parameters/otpmk", otpmk))
}

// resize sets the size of the device, which is a mapping of the disk's first bytes.
func (x *trouble) resize(verb string, size int64) {
	x.t.Helper()
	x.note("the device has %d bytes", size)
	x.MustSh(fmt.Sprintf("echo 0 %d linear /dev/vda 0 | dmsetup %s base", size/512, verb))
	if verb == "reload" {
		x.MustSh("dmsetup resume base")
	}
}

// lose suspends the machine without telling imxcrypt.
func (x *trouble) lose() {
	x.t.Helper()
	x.MustSh("echo 0 >/sys/power/sync_on_suspend; echo mem >/sys/power/state")
}

// digest returns the checksum of the header area and the first data, past every cache.
func (x *trouble) digest() string {
	x.t.Helper()
	return x.MustSh("sync; dd if=" + x.device + " bs=1M count=3 iflag=direct 2>/dev/null | sha256sum")
}

// run runs a command and checks its exit code. A refusal must not change a byte.
func (x *trouble) run(code int, args ...string) {
	x.t.Helper()
	x.note("%s (expected: exit %d)", strings.Join(args, " "), code)
	x.given++
	before := ""
	if code == 6 || code == 5 || code == 2 {
		before = x.digest()
	}
	r := x.Run(append([]string{"imxcrypt"}, args...)...)
	if r.Code != code {
		x.fail("exit %d, expected %d: %v", r.Code, code, r)
	}
	if before != "" && x.digest() != before {
		x.fail("a refusal changed the device: %v", r)
	}
	if advice, _, _ := strings.Cut(afterHint(r.Stderr), "."); strings.Contains(advice, "--wipe") || strings.Contains(advice, "imxcrypt erase") {
		x.fail("the first advice destroys: %v", r)
	}
}

// tooSmall runs a command on a device that lost its end. The command must say that the
// partition is smaller (4) or, if only a rotation's new place is missing, that the
// header does not fit (8), and change nothing.
func (x *trouble) tooSmall(args ...string) {
	x.t.Helper()
	x.note("%s (expected: exit 4 or 8)", strings.Join(args, " "))
	x.given++
	before := x.digest()
	if r := x.Run(append([]string{"imxcrypt"}, args...)...); r.Code != 4 && r.Code != 8 {
		x.fail("exit %d, expected 4 or 8: %v", r.Code, r)
	}
	if x.digest() != before {
		x.fail("a refusal changed the device")
	}
}

// afterHint returns the text of a hint, or "" without one.
func afterHint(stderr string) string {
	_, hint, _ := strings.Cut(stderr, "hint: ")
	return hint
}

// opens is the oracle: whatever happened, the volume opens and has what was flushed.
func (x *trouble) opens() {
	x.t.Helper()
	x.run(0, "unlock", "--mount", "data")
	x.run(0, "verify", "data")
	if got := strings.TrimSpace(x.MustSh("echo 1 >/proc/sys/vm/drop_caches; cat /data/note")); got != x.text {
		x.fail("data lost: %q, not %q", got, x.text)
	}
}

// save writes a new text and flushes it; the volume must be mounted.
func (x *trouble) save() {
	x.t.Helper()
	x.text = fmt.Sprint(x.rng.Uint64())
	x.MustSh("echo " + x.text + " > /data/note && sync -f /data/note")
}

// flip damages one byte of the device.
func (x *trouble) flip(at int) {
	x.t.Helper()
	x.note("a byte is damaged at %d", at)
	x.MustSh(fmt.Sprintf("b=$(dd if=%[1]s bs=1 skip=%[2]d count=1 2>/dev/null | od -An -tu1); printf \"\\\\$(printf %%o $((b ^ 1)))\" | dd of=%[1]s bs=1 seek=%[2]d conv=notrunc,fsync 2>/dev/null", x.device, at))
}

// held runs commands while something else holds the locked volume's device. rotate is
// the expected exit code of a rotation.
func (x *trouble) held(rotate int, hold, free string) {
	x.t.Helper()
	x.run(0, "lock", "data")
	x.note("held: %s", hold)
	x.MustSh(hold)
	x.run(5, "unlock", "data")
	x.run(5, "erase", "--yes", "data")
	x.run(rotate, "rotate", "data")
	x.run(5, "provision", "data")
	x.MustSh(free)
}

// happens lists what can happen to an intact, mounted volume.
func (x *trouble) happens() map[string]func() {
	const first, second, json = 0, 16 << 10, 4096 + 64
	return map[string]func(){
		"one header copy damaged": func() {
			x.flip([]int{first, second}[x.rng.IntN(2)] + json + x.rng.IntN(200))
			x.run(0, "header", "repair", "data")
		},
		"both header copies damaged, locked": func() {
			x.run(0, "lock", "data")
			x.flip(first + json + x.rng.IntN(100))
			x.flip(second + json + 100 + x.rng.IntN(100))
			x.run(8, "unlock", "data")
			x.run(0, "header", "repair", "data")
		},
		"backup": func() {
			file := fmt.Sprintf("/run/backup-%d", x.given)
			x.run(0, "header", "backup", "data", file)
			x.backups = append(x.backups, file)
		},
		"rotation, after which older backups are refused": func() {
			x.run(0, "rotate", "data")
			x.run(0, "lock", "data")
			for _, file := range x.backups {
				x.run(6, "header", "restore", "--yes", "data", file)
			}
			x.backups = nil
		},
		"header zeroed, backup restored": func() {
			if len(x.backups) == 0 {
				return
			}
			x.run(0, "lock", "data")
			x.MustSh("dd if=/dev/zero of=" + x.device + " bs=32k count=1 conv=notrunc,fsync 2>/dev/null")
			x.run(0, "header", "restore", "--yes", "data", x.backups[len(x.backups)-1])
		},
		"another mapping holds the device": func() {
			x.held(5, "echo \"0 8 linear "+x.device+" 0\" | dmsetup create hold", "dmsetup remove --retry hold")
		},
		"a loop device holds the device": func() { x.held(5, "losetup /dev/loop5 "+x.device, "losetup -d /dev/loop5") },
		// Whatever covers the first copy of the header then is not overwritten.
		"the device is swap": func() {
			x.MustSh("imxcrypt lock data; dd if=" + x.device + " of=/run/first bs=4k count=1 2>/dev/null")
			x.held(8, "mkswap "+x.device+" >&2; sync; swapon "+x.device, "swapoff "+x.device+"; dd if=/run/first of="+x.device+" bs=4k conv=notrunc,fsync 2>/dev/null")
		},
		"the device grows": func() {
			x.run(0, "lock", "data")
			x.size = min(x.size+64<<10, diskSize)
			x.resize("reload", x.size)
		},
		"the device is shrunk, and has its size again": func() {
			x.run(0, "lock", "data")
			x.resize("reload", x.size-2<<20) // more than the gap
			for _, args := range [][]string{{"unlock", "data"}, {"verify", "data"}, {"rotate", "data"}, {"provision", "data"}, {"header", "repair", "data"}} {
				x.tooSmall(args...)
			}
			x.resize("reload", x.size)
		},
		"locked beside another mount namespace": func() {
			p := x.Start("unshare", "-m", "--propagation", "private", "sh", "-c", "echo apart; exec sleep 1000")
			p.WaitFor("apart", 3*time.Minute)
			x.run(5, "lock", "data")
			p.Signal(syscall.SIGKILL)
			p.Wait()
		},
		"a second configuration": func() {
			x.Put("/etc/imxcrypt/other.yaml", []byte("mapping_prefix: other-\n"+x.configuration))
			x.run(5, "--config", "/etc/imxcrypt/other.yaml", "erase", "--yes", "data")
			x.run(5, "--config", "/etc/imxcrypt/other.yaml", "rotate", "data")
			x.MustSh("rm /etc/imxcrypt/other.yaml")
		},
		"a full /run": func() {
			x.MustSh("dd if=/dev/zero of=/run/fill bs=64k 2>/dev/null || true")
			x.run(0, "lock", "data")
			x.run(0, "unlock", "--mount", "data")
			x.run(0, "status", "data")
			x.MustSh("rm /run/fill")
		},
		"keys lost in a suspend that nobody announced": func() {
			x.lose()
			x.run(0, "unlock", "--mount", "data")
		},
		"keys lost, and the hook for elogind and pm-utils runs": func() {
			x.lose()
			x.PutFile("/run/hook", "../../packaging/systemd/system-sleep/imxcrypt")
			x.MustSh("sh /run/hook " + []string{"post suspend", "resume suspend"}[x.rng.IntN(2)])
			x.run(0, "status", "data")
		},
		"keys lost, then locked": func() {
			x.lose()
			x.run(0, "lock", "data")
		},
		"a copy of the disk on another chip": func() {
			x.run(0, "lock", "data")
			x.chip(x.rng.Uint64())
			for _, args := range [][]string{{"unlock", "data"}, {"verify", "data"}, {"provision", "--no-mount", "data"}, {"provision", "--no-mount", "--all", "--json"}} {
				x.run(3, args...)
			}
			// A factory that wipes whatever is on its boards.
			before := x.digest()
			if r := x.Run("imxcrypt", "provision", "--no-mount", "--wipe", "--yes", "data"); r.Code == 0 || x.digest() != before {
				x.fail("another board's image was provisioned over: %v", r)
			}
			x.chip(ownChip)
		},
	}
}

// A volume to which everything happens, in any order, on a real kernel: nothing that
// was flushed is lost, a refusal does not change a byte, and the first advice never
// destroys.
func TestAnyOrderOfTroubles(t *testing.T) {
	t.Parallel()
	steps := 34
	if os.Getenv("IMXCRYPT_SOAK") != "" {
		steps = 1000
	}
	b := board{vm.AMD64, "amd64"}
	m := b.start(t, vm.NewDisk(t, diskSize))
	x := &trouble{life: newLife(t, m, "device", 7), counts: map[string]int{}}
	// The kernel suspends only as far as its devices, and the chip loses its keys at
	// the beginning. Nothing writes with a dead key by itself.
	m.MustSh("echo devices >/sys/power/pm_test; echo 0 >/sys/module/suspend/parameters/pm_test_delay; echo 1 >/sys/module/imxcrypt_simcaam/parameters/shallow_resets; echo 0 >/proc/sys/vm/dirty_writeback_centisecs")
	x.configuration = strings.NewReplacer("nosuid]", "nosuid, commit=900]", "/dev/vda", "/dev/mapper/base").Replace(oneVolume)
	m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(x.configuration))
	x.device, x.size = "/dev/mapper/base", diskSize-512<<10
	x.resize("create", x.size)
	x.chip(ownChip)
	m.MustRun("imxcrypt", "provision", "data")
	x.save()
	names := slices.Sorted(maps.Keys(x.happens()))
	for n := range steps {
		// Each one once, then any.
		name := names[n%len(names)]
		if n >= len(names) {
			name = names[x.rng.IntN(len(names))]
		}
		x.note("# %s", name)
		x.happens()[name]()
		x.counts[name]++
		x.opens()
		x.save()
	}
	m.MustRun("imxcrypt", "lock", "data")
	t.Logf("%d commands amid %d troubles, nothing lost: %v", x.given, steps, x.counts)
}

// The kernel answers EINVAL both for an image made for smaller sectors and for a
// damaged journal. The kernel log and the superblock tell them apart, and the advice
// works.
func TestWhyAFilesystemIsNotMounted(t *testing.T) {
	longScenario(t, func(t *testing.T, b board) {
		m := b.start(t, vm.NewDisk(t, 64<<20))
		m.MustSh("mkdir -p /data")
		m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(oneVolume))
		b.expect(t, m.Run("imxcrypt", "provision", "data"), 0, "mounted on /data")
		m.MustSh("echo fox > /data/fox")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "")

		t.Log("the journal's superblock is overwritten")
		b.expect(t, m.Run("imxcrypt", "unlock", "data"), 0, "")
		m.MustSh("j=$(debugfs -R 'bmap <8> 0' /dev/mapper/data 2>/dev/null); test -n \"$j\"; dd if=/dev/urandom of=/dev/mapper/data bs=4096 seek=$j count=1 conv=notrunc 2>/dev/null; sync")
		b.expect(t, m.Run("imxcrypt", "unlock", "--mount", "data"), 6, "the filesystem is damaged (kernel: ")
		b.expect(t, m.Run("imxcrypt", "unlock", "--mount", "data"), 6, "e2fsck -f /dev/mapper/data")
		b.expect(t, m.Run("imxcrypt", "unlock", "--for-repair", "data"), 0, "")
		m.Sh("e2fsck -fy /dev/mapper/data")
		b.expect(t, m.Run("imxcrypt", "unlock", "--mount", "data"), 0, "mounted on /data")
		m.MustSh("grep -q fox /data/fox")
		b.expect(t, m.Run("imxcrypt", "lock", "data"), 0, "")

		t.Log("an updater writes an image with blocks of 1 KiB")
		b.expect(t, m.Run("imxcrypt", "unlock", "data"), 0, "")
		m.MustSh("truncate -s 16M /image && mkfs.ext4 -q -b 1024 /image && dd if=/image of=/dev/mapper/data bs=1M 2>/dev/null && sync")
		b.expect(t, m.Run("imxcrypt", "unlock", "--mount", "data"), 6, "make it with mkfs.ext4 -b 4096")
		m.MustSh("rm /image && truncate -s 16M /image && mkfs.ext4 -q -b 4096 /image && dd if=/image of=/dev/mapper/data bs=1M 2>/dev/null && sync")
		b.expect(t, m.Run("imxcrypt", "unlock", "--mount", "data"), 0, "mounted on /data")
	})
}
