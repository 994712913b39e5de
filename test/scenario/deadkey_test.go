// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// lossVolumes hold back the kernel's own writes for a while: no one can help if the
// kernel writes with a dead key within seconds.
const lossVolumes = `volumes:
  - {name: data, device: /dev/vda, wrap: ccm, mount: {path: /data, options: [commit=900]}}
  - {name: logs, device: /dev/vdb, wrap: ecb, mount: {path: /logs, options: [commit=900]}}
`

// losing is a machine whose chip loses its keys in a suspend that imxcrypt does not
// notice, while a volume of each wrap is in use.
type losing struct {
	board
	*vm.Machine
	t *testing.T
}

// TestLostKeys checks that no file synced before the loss is lost, whatever is done
// next, and that each exit code is correct.
func TestLostKeys(t *testing.T) {
	t.Parallel()
	b := board{vm.AMD64, "amd64"}
	l := &losing{b, b.start(t, vm.NewDisk(t, 16<<20), vm.NewDisk(t, 16<<20)), t}
	l.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(lossVolumes))
	l.PutFile("/opt/load", vm.BuildProgram(t, "./test/load", b.goarch))
	// The kernel suspends only as far as its devices, and the chip loses its keys at
	// the beginning.
	l.MustSh("echo devices >/sys/power/pm_test; echo 0 >/sys/module/suspend/parameters/pm_test_delay; echo 1 >/sys/module/imxcrypt_simcaam/parameters/shallow_resets")
	l.MustSh("echo 0 >/proc/sys/vm/dirty_writeback_centisecs; mkdir -p /data /logs")
	l.expect(t, l.Run("imxcrypt", "provision", "data", "logs"), 0, "mounted on /logs")
	for _, v := range []string{"data", "logs"} {
		l.MustSh("imxcrypt lock --all && imxcrypt unlock --mount " + v)
		for name, act := range map[string]func(string){
			"unlock": l.unlock, "lock": l.lock, "lock, dirty superblock": l.lockDirty, "sleep resume": l.resume,
			"wiped, unlock": func(v string) { l.wipe(v); l.unlock(v) }, "wiped, lock": func(v string) { l.wipe(v); l.lock(v) },
			"sleep": l.sleep,
		} {
			t.Logf("== %s: %s", v, name)
			l.fill(v, name)
			l.lose()
			l.reported(v)
			act(v)
			l.sound(v)
		}
	}
	l.rotating()
	l.lookWritesNothing()
	l.fill("logs", "erase")
	l.lose()
	l.expect(t, l.Run("imxcrypt", "erase", "--yes", "logs"), 0, "erased")
	l.expect(t, l.Run("imxcrypt", "unlock", "--mount", "data"), 0, "mounted")
	l.sound("data")
}

// fill writes files and syncs them, and then writes one more without syncing it.
func (l *losing) fill(v, name string) {
	l.t.Helper()
	l.MustSh(fmt.Sprintf(`cd /%s && for i in 1 2 3; do head -c 100000 /dev/urandom >"%s-$i"; done && rm -f dirty && sync -f . && sha256sum [a-z]*-[123] >/tmp/%s.sums && echo dirty >dirty`, v, name, v))
}

// lose suspends the machine without telling imxcrypt.
func (l *losing) lose() {
	l.t.Helper()
	l.MustSh("echo 0 >/sys/power/sync_on_suspend; echo mem >/sys/power/state")
}

// reported checks that every command that inspects the volume reports the loss, and
// that none of them continues.
func (l *losing) reported(v string) {
	l.t.Helper()
	l.expect(l.t, l.Run("imxcrypt", "status", "--json", v), 3, `"state":"keyless","up":false`)
	l.expect(l.t, l.Run("imxcrypt", "verify", v), 3, "its key was lost in a suspend")
	l.expect(l.t, l.Run("imxcrypt", "rotate", v), 3, "hint: `imxcrypt unlock "+v)
	if r := l.Sh("imxcrypt doctor --json"); !strings.Contains(r.Stdout, "its key was lost in a suspend") {
		l.t.Fatalf("doctor: %v", r)
	}
}

// sound checks that what was synced is there, past the cache and after unmounting, and
// that the filesystem is intact.
func (l *losing) sound(v string) {
	l.t.Helper()
	l.expect(l.t, l.Run("imxcrypt", "unlock", "--mount", v), 0, v)
	l.MustSh(fmt.Sprintf("echo 3 >/proc/sys/vm/drop_caches; cd /%s && sha256sum -cs /tmp/%s.sums", v, v))
	l.expect(l.t, l.Run("imxcrypt", "lock", v), 0, "locked")
	l.expect(l.t, l.Run("imxcrypt", "unlock", v), 0, "unlocked")
	l.MustSh("e2fsck -fn /dev/mapper/" + v)
	l.expect(l.t, l.Run("imxcrypt", "unlock", "--mount", v), 0, "mounted")
	l.MustSh(fmt.Sprintf("cd /%s && sha256sum -cs /tmp/%s.sums", v, v))
	l.expect(l.t, l.Run("imxcrypt", "status", v), 0, "mounted")
}

func (l *losing) unlock(v string) {
	l.t.Helper()
	r := l.Run("imxcrypt", "unlock", v)
	l.expect(l.t, r, 0, v+": unlocked")
	if strings.Contains(r.Stdout, "already") {
		l.t.Fatal("already")
	}
	l.expect(l.t, l.Run("imxcrypt", "unlock", v), 0, "already")
	l.expect(l.t, l.Run("imxcrypt", "verify", v), 0, "this chip opens it")
	// What was not written yet is written with the correct key.
	l.MustSh("cat /" + v + "/dirty && sync -f /" + v)
}

func (l *losing) resume(v string) {
	l.t.Helper()
	l.expect(l.t, l.Run("imxcrypt", "sleep", "resume"), 0, v+": lost key restored")
	l.expect(l.t, l.Run("imxcrypt", "sleep", "resume"), 0, v+": no key is lost")
}

func (l *losing) lock(v string) {
	l.t.Helper()
	l.MustSh("cd /" + v + " && touch late && mkdir late.d")
	l.expect(l.t, l.Run("imxcrypt", "lock", v), 0, v+": locked")
}

// lockDirty locks a volume whose superblock is dirty in memory, so that reading the
// mapping would write.
func (l *losing) lockDirty(v string) {
	l.t.Helper()
	l.MustSh("imxcrypt unlock " + v)
	l.dirty(v, 0)
	l.lose()
	before := l.stored(v, 0)
	l.expect(l.t, l.Run("imxcrypt", "status", "--json", v), 3, `"code":"keys-lost"`)
	if l.stored(v, 0) != before {
		l.t.Fatal("status has written the superblock")
	}
	l.expect(l.t, l.Run("imxcrypt", "lock", v), 0, v+": locked")
}

// sleep restores lost keys before it writes anything back.
func (l *losing) sleep(v string) {
	l.t.Helper()
	l.expect(l.t, l.Run("imxcrypt", "sleep", "suspend"), 0, "awake again")
	l.MustSh("cat /" + v + "/dirty")
}

func (l *losing) wipe(v string) {
	l.t.Helper()
	l.MustSh("dmsetup wipe_table --noflush --nolockfs " + v)
	l.expect(l.t, l.Run("imxcrypt", "status", "--json", v), 3, `"state":"keyless"`)
}

// dirty makes a page dirty in memory. The first block is the superblock's page, which a
// mounted filesystem makes dirty as well.
func (l *losing) dirty(v string, block int) {
	l.t.Helper()
	l.MustSh(fmt.Sprintf("dd if=/dev/mapper/%s of=/tmp/block bs=4096 skip=%d count=1 2>/dev/null && dd if=/tmp/block of=/dev/mapper/%s bs=4096 seek=%d count=1 conv=notrunc 2>/dev/null", v, block, v, block))
}

// stored returns what the storage holds for a block.
func (l *losing) stored(v string, block int) string {
	l.t.Helper()
	return l.MustSh(fmt.Sprintf(`set -- $(dmsetup table %s); dev=$(readlink -f /sys/dev/block/$7); /opt/load -direct $(($8 / 8 + %d)) /dev/${dev##*/}`, v, block))
}

// lookWritesNothing tests a premise and its opposite. A read past the page cache writes
// back what is dirty there, which with a dead key destroys it; status does not.
func (l *losing) lookWritesNothing() {
	l.t.Helper()
	const last = 3583 // of 14 MiB: no metadata
	l.fill("logs", "premise")
	l.dirty("logs", 0)
	l.dirty("logs", last)
	l.lose()
	first, before := l.stored("logs", 0), l.stored("logs", last)
	l.expect(l.t, l.Run("imxcrypt", "status", "logs"), 3, "not known")
	if l.stored("logs", 0) != first {
		l.t.Fatal("status has written the superblock")
	}
	l.MustRun("/opt/load", "-direct", fmt.Sprint(last), "/dev/mapper/logs")
	if l.stored("logs", last) == before {
		l.t.Fatal("premise: a direct read writes back nothing")
	}
	l.MustSh("imxcrypt sleep resume")
	l.sound("logs")
}

// rotating loses both keys in the middle of a rotation.
func (l *losing) rotating() {
	l.t.Helper()
	for _, act := range []func(string){l.unlock, l.lock, l.resume} {
		l.fill("logs", "rotating")
		p := l.Start("imxcrypt", "rotate", "--rate-limit", "2MiB", "logs")
		for tries := 0; !strings.Contains(l.MustRun("dmsetup", "ls"), "logs:hot"); tries++ {
			if time.Sleep(100 * time.Millisecond); tries > 1800 {
				l.t.Fatal("the rotation does not move a zone")
			}
		}
		// A kernel stops all processes before any device goes down. The simulated chip
		// loses its keys earlier, when the suspend begins, so stop the rotation here.
		p.Signal(syscall.SIGSTOP)
		l.lose()
		p.Signal(syscall.SIGCONT)
		l.expect(l.t, p.Wait(), 3, "hint: `imxcrypt unlock logs`")
		l.expect(l.t, l.Run("imxcrypt", "status", "logs"), 3, "key")
		l.expect(l.t, l.Run("imxcrypt", "rotate", "--resume-only", "logs"), 3, "key")
		act("logs")
		l.sound("logs")
		l.expect(l.t, l.Run("imxcrypt", "rotate", "--resume-only", "logs"), 0, "rotated")
		l.sound("logs")
	}
}
