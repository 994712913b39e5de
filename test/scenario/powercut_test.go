// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"imxcrypt/internal/crashtest"
	"imxcrypt/luks2"
	"imxcrypt/test/replay"
	"imxcrypt/test/vm"
)

// cuts is a board that was recorded while it used a volume on /dev/vda. Each disk that
// a power cut would have left is then presented to it as /dev/vdb.
type cuts struct {
	board
	*vm.Machine
	t     *testing.T
	tape  *replay.Tape
	run   *replay.Run
	bench *vm.Disk

	// end closes what the script of a check has opened, after the script.
	end string
	// at is the number of flushes of a stage at which power is cut, 0 for all. perCut
	// is the number of images tried for each.
	at, perCut int

	imageCount
}

// soak reports whether there is time for hours of testing.
func soak() bool { return os.Getenv("IMXCRYPT_SOAK") != "" }

func newCuts(t *testing.T, bench *vm.Disk) *cuts {
	return &cuts{board: board{vm.AMD64, "amd64"}, t: t, bench: bench, end: "ok $I lock data", perCut: 2}
}

// many is the number of images tried per flush in a short stage and where a key moves
// from one place to another.
const many = 8

// The configurations for the recorded disk and for the disk that receives the images.
const (
	cutRecorded = "/run/recorded.yaml"
	cutBench    = "/run/bench.yaml"
)

func cutConfig(device string) []byte {
	return []byte("volumes:\n  - name: data\n    device: " + device + "\n    timeout: 1s\n    mount: {path: /data}\n")
}

// recorded runs the program on the recorded disk; it must succeed.
func (c *cuts) recorded(args ...string) string {
	c.t.Helper()
	return c.MustRun(append([]string{"imxcrypt", "--config", cutRecorded}, args...)...)
}

// here returns the current place in the recording.
func (c *cuts) here() replay.Place {
	c.t.Helper()
	return c.tape.Now(c.t)
}

// write writes the n-th file, with the given number of lines, and waits until it is
// durable.
func (c *cuts) write(n, lines int) file {
	c.t.Helper()
	sum := c.MustSh(fmt.Sprintf("cd /data; seq %[1]d %[2]d | dd of=f%[1]d bs=4096 iflag=fullblock conv=fsync 2>/dev/null; sha256sum f%[1]d", n, n+lines))
	return file{sum, c.here()}
}

// file is a file that must exist from a place in the recording on.
type file struct {
	sum  string // a line of sha256sum
	from replay.Place
}

// wanted returns a script that checks the files that must exist in a state.
func (c *cuts) wanted(s *crashtest.State, files []file) string {
	var sums strings.Builder
	for _, f := range files {
		if c.run.Durable(s, f.from) {
			sums.WriteString(f.sum)
		}
	}
	if sums.Len() == 0 {
		return ":"
	}
	return "present '" + sums.String() + "'"
}

// phase returns the phase in the header of an image, or "" if there is no header.
func (c *cuts) phase(s *crashtest.State) string {
	im := c.run.Image(s)
	h, _, err := luks2.Read(im, im.Size())
	if err != nil {
		return ""
	}
	for _, id := range h.Metadata.TokensOfType("imxcrypt") {
		return strings.Trim(string(h.Metadata.Tokens[id].Extra["phase"]), `"`)
	}
	return ""
}

// check writes a state's image to the disk and runs a script on it after a power cycle
// of the chip. The script has the program as $I and reports by its exit code whether
// the image is good; check returns its output. Starting a program costs as much as
// opening a volume, so the shell does by itself whatever it can.
func (c *cuts) check(s *crashtest.State, script string) string {
	c.t.Helper()
	c.run.Lay(c.t, c.bench, s)
	r := c.Sh(`set -u; I="imxcrypt --config ` + cutBench + `"
echo 1 > /sys/module/imxcrypt_simcaam/parameters/jdkek_reset
fail() { echo "$*" >&2; exit 1; }
ok() { "$@" > /run/out 2>&1 || fail "exit $? of $*: $(cat /run/out)"; }
present() { cd /data; printf %s "$1" > /run/sums; sha256sum -c /run/sums > /run/out 2>&1 || fail "lost: $(cat /run/out)"; cd /; }
( ` + script + `
); code=$?
` + c.end + `
for dm in /sys/block/dm-*; do [ ! -e $dm ] || fail "left behind: $(dmsetup ls)"; done
exit $code`)
	if r.Code != 0 {
		c.t.Errorf("%v (phase %q): %v", s, c.phase(s), r)
	}
	return strings.TrimSpace(r.Stdout)
}

// stage tries some images of the flushes between two places, and the image at the end.
// In a soak it tries many more, and every flush.
func (c *cuts) stage(name string, from, to replay.Place, tear int64, check func(s *crashtest.State)) {
	c.t.Helper()
	at, perCut := c.at, c.perCut
	if soak() {
		at, perCut = 0, max(perCut, 15)
	}
	c.add(tryImages(c.t, c.run, name, replay.Options{
		From: from, To: to, Cuts: at, PerCut: perCut, Seed: 1,
		Crash: crashtest.Options{Exhaustive: 10, Limit: 200, Random: 64, Tear: tear},
	}, check))
}

// imageCount counts flushes and images.
type imageCount struct {
	flushes, tried             int // flushes
	images, distinct, possible int
}

func (n *imageCount) add(m imageCount) {
	n.flushes, n.tried = n.flushes+m.flushes, n.tried+m.tried
	n.images, n.distinct, n.possible = n.images+m.images, n.distinct+m.distinct, n.possible+m.possible
}

func (n imageCount) String() string {
	return fmt.Sprintf("%d flushes, %d of them tried, %d images of these, %d distinct ones opened, of %d possible", n.flushes, n.tried, n.images, n.distinct, n.possible)
}

// tryImages checks the selected images and logs how many there were.
func tryImages(t *testing.T, run *replay.Run, name string, o replay.Options, check func(s *crashtest.State)) imageCount {
	t.Helper()
	began, chosen, cuts, kinds := time.Now(), run.Sample(o), map[int]bool{}, map[crashtest.Loss]int{}
	distinct := run.Distinct(chosen)
	for _, s := range chosen {
		cuts[s.Epoch] = true
	}
	for _, s := range distinct {
		kinds[s.Loss()]++
		check(s)
	}
	// The final state comes after the last flush.
	n := imageCount{run.Flushes(o.From, o.To), len(cuts) - 1, len(chosen), len(distinct), run.Count(o)}
	t.Logf("%s: %v (%v), in %v", name, n, kinds, time.Since(began).Round(time.Second))
	return n
}

// sum prints the counts.
func (c *cuts) sum(what string) {
	c.t.Helper()
	if !c.t.Failed() {
		c.t.Logf("%s: %d flushes recorded; %v; 0 lost", what, c.run.Flushes(0, 0), c.imageCount)
	}
}

// A board is provisioned and used, its header repaired, the volume erased and
// provisioned again with a recovery copy, its header repaired and restored, and its key
// given to another chip. Power is cut at the flushes of all this, and unflushed writes
// are kept, lost and torn. In each case the next run ends well.
func TestPowerCutsOnTheRealKernel(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	const size = 11 << 20 // with much less, mkfs makes no journal
	c := newCuts(t, vm.NewDisk(t, size))
	disk := vm.NewDisk(t, size)
	disk.LogWrites = disk.Path + ".log"
	c.tape = replay.Load(t, disk)
	c.Machine = c.start(t, disk, c.bench)
	c.Put(cutRecorded, cutConfig("/dev/vda"))
	c.Put(cutBench, cutConfig("/dev/vdb"))
	c.Put("/run/key.txt", []byte(id.String()+"\n"))
	c.MustSh("mkdir -p /data")

	chip := func(otpmk string) {
		c.MustSh("echo " + otpmk + " > /sys/module/imxcrypt_simcaam/parameters/otpmk")
	}
	replacement := strings.Repeat("5a", 32)

	c.recorded("provision", "--no-mount", "data")
	provisioned := c.here()
	var files []file
	for n := range 6 {
		if n%3 == 0 {
			c.recorded("lock", "data")
			c.recorded("unlock", "--mount", "data")
		}
		files = append(files, c.write(n, 9000))
	}
	c.recorded("lock", "data")
	used := c.here()
	c.MustSh("dd if=/dev/zero of=/dev/vda bs=512 seek=9 count=6 oflag=direct conv=fsync 2>/dev/null")
	damaged := c.here()
	c.recorded("unlock", "data")
	c.recorded("lock", "data")
	repaired := c.here()
	c.recorded("erase", "--yes", "data")
	erased := c.here()
	fingerprint := fingerprintIn(t, c.recorded("provision", "--json", "--no-mount", "data", "--recipient", id.Recipient().String()))
	reseal := []string{"recover", "--identity", "/run/key.txt", "--reseal", "data", "--fingerprint", fingerprint}
	again := c.here()
	c.recorded("unlock", "--mount", "data")
	second := []file{c.write(10, 9000)}
	c.recorded("header", "backup", "data", "/run/backup")
	c.recorded("lock", "data")
	usedAgain := c.here()
	// A byte that never occurs in the text of a header, in each copy.
	c.MustSh(`for at in 4200 20700; do printf '\001' | dd of=/dev/vda bs=1 seek=$at conv=notrunc,fsync 2>/dev/null; done`)
	both := c.here()
	c.recorded("header", "repair", "data")
	bothRepaired := c.here()
	c.MustSh("dd if=/dev/zero of=/dev/vda bs=4096 count=8 oflag=direct conv=fsync 2>/dev/null")
	gone := c.here()
	c.recorded("header", "restore", "data", "/run/backup")
	restored := c.here()
	first := strings.TrimSpace(c.MustSh("cat /sys/module/imxcrypt_simcaam/parameters/otpmk"))
	chip(replacement)
	other := c.here()
	c.recorded(reseal...)
	resealed := c.here()
	c.run = c.tape.Run(t)

	const open = "ok $I unlock --mount data; "
	chip(first)
	c.stage("provisioning", 0, provisioned, 512, func(s *crashtest.State) {
		script := "ok $I provision -v data; "
		if c.phase(s) == "ready" {
			script += "grep -q 'ext4 made' /run/out && fail formatted; :"
		}
		c.check(s, script)
	})
	// ext4 itself does not survive a superblock, its own or the journal's, that is torn
	// in the middle. Without copy on write no filesystem does.
	c.stage("in use", provisioned, used, 4096, func(s *crashtest.State) { c.check(s, open+c.wanted(s, files)) })
	c.stage("repairing the header", damaged, repaired, 512, func(s *crashtest.State) { c.check(s, open+c.wanted(s, files)) })
	c.stage("erasing", repaired, erased, 512, func(s *crashtest.State) {
		script := "if $I unlock --mount data > /run/out 2>&1; then " + c.wanted(s, files) + "; else ok $I erase --yes data; ok $I provision data; [ ! -e /data/f0 ] || fail not erased; fi"
		if c.run.Durable(s, erased) {
			script = "$I unlock data > /run/out 2>&1 && fail it opens; grep -q 'was erased' /run/out || fail \"$(cat /run/out)\""
		}
		c.check(s, script)
	})
	c.perCut = many
	c.stage("provisioning again, with a recovery copy", erased, again, 512, func(s *crashtest.State) {
		c.check(s, "ok $I provision data --recipient "+id.Recipient().String())
	})
	c.perCut = 3
	c.stage("in use again", again, usedAgain, 4096, func(s *crashtest.State) { c.check(s, open+c.wanted(s, second)) })
	c.perCut = many
	c.stage("repairing the header from both copies", both, bothRepaired, 512, func(s *crashtest.State) {
		c.check(s, "$I unlock --mount data > /run/out 2>&1 || { ok $I header repair data; "+open+"}; "+c.wanted(s, second))
	})
	c.stage("restoring the header", gone, restored, 512, func(s *crashtest.State) {
		c.check(s, "$I unlock --mount data > /run/out 2>&1 || { ok $I header restore data /run/backup; "+open+"}; "+c.wanted(s, second))
	})
	chip(replacement)
	c.stage("giving the key to another chip", other, resealed, 512, func(s *crashtest.State) {
		c.check(s, "$I unlock --mount data > /run/out 2>&1 || { ok $I "+strings.Join(reseal, " ")+"; "+open+"}; "+c.wanted(s, second))
	})
	c.sum("power cuts on the real kernel")
}

// A key is created and a volume of the old recipe adopted, with blob and header in
// files on a real filesystem. Power is cut at the flushes in between.
func TestPowerCutsOfAdoption(t *testing.T) {
	t.Parallel()
	c := newCuts(t, vm.NewDisk(t, 8<<20))
	c.end = "ok $I lock data; umount /bench || fail the files are in use"
	files, disk := vm.NewDisk(t, 8<<20), vm.NewDisk(t, 2<<20)
	files.LogWrites, disk.LogWrites = files.Path+".log", disk.Path+".log"
	c.tape = replay.Load(t, files)
	adoptee := replay.Load(t, disk)
	c.Machine = c.start(t, disk, files, c.bench)
	// There is no space here for the default of 4 MiB.
	small := strings.Replace(adoptedVolume, "data.header\n", "data.header\n    header_size: 1MiB\n", 1)
	config := func(dir string) []byte {
		return fmt.Appendf(nil, strings.ReplaceAll(small, "/var/lib/imxcrypt", dir), "ccm", "capi:tk(cbc(aes))-plain64", 4096)
	}
	c.Put(cutRecorded, config("/caam"))
	c.Put(cutBench, config("/bench"))
	c.MustSh("mkdir -p /data /caam /bench && mkfs.ext4 -q -b 4096 /dev/vdb && mount /dev/vdb /caam && sync -f /caam")

	begun := c.here()
	c.recorded("key", "create", "data", "--dir", "/caam", "--wrap", "ccm")
	created := c.here()
	c.MustSh("FIRST=yes\nexport FIRST\n" + fmt.Sprintf(byHand, "capi:tk(cbc(aes))-plain64", 4096, "echo fox > /mnt/fox"))
	made, before := c.here(), adoptee.Now(t)
	if len(adoptee.Changes(t, 0, before)) == 0 {
		t.Fatal("the record of the disk to adopt is empty")
	}
	c.recorded("adopt", "data", "--blob", "/caam/data.bb")
	adopted := c.here()
	// If nothing was written to the disk, any power cut leaves it as it was.
	if changes := adoptee.Changes(t, before, adoptee.Now(t)); changes != nil {
		t.Errorf("adopting changed the disk: %v", changes)
	}
	c.MustSh("umount /caam")
	c.run = c.tape.Run(t)

	// with runs a script while the image is mounted.
	with := func(s *crashtest.State, script string) {
		c.check(s, "e2fsck -fp /dev/vdc >/run/fsck 2>&1; [ $? -le 1 ] || fail \"$(cat /run/fsck)\"; ok mount /dev/vdc /bench; ( "+script+
			" )")
	}
	c.stage("creating a key", begun, created, 4096, func(s *crashtest.State) {
		script := "[ -e /bench/data.bb ] || ok $I key create data --dir /bench --wrap ccm; "
		if c.run.Durable(s, created) {
			script = ""
		}
		with(s, script+"rm -f /run/black; ok $I key import /bench/data.bb --out /run/black")
	})
	c.perCut = many
	c.stage("adopting", made, adopted, 4096, func(s *crashtest.State) {
		script := "ok $I adopt data --blob /bench/data.bb; "
		if c.run.Durable(s, adopted) {
			script = ""
		}
		with(s, script+"ok $I unlock --mount data; [ \"$(cat /data/fox)\" = fox ] || fail the data is lost")
	})
	c.sum("power cuts of adoption")
}
