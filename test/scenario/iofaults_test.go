// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"fmt"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// faulty is a board whose disk is behind a mapping that can be made to fail:
// /dev/mapper/disk, 32768 sectors of 512 bytes.
type faulty struct {
	board
	*vm.Machine
	t *testing.T
}

const (
	faultyDisk    = "/dev/mapper/disk"
	faultySectors = 32768
)

// sound returns the table of a disk without faults.
func sound() string { return fmt.Sprintf("0 %d linear /dev/vda 0", faultySectors) }

// flakey returns the table of a disk with one of dm-flakey's faults from a sector on.
func flakey(fault string, from int) string {
	bad := fmt.Sprintf("%d %d flakey /dev/vda %d 0 3600 1 %s", from, faultySectors-from, from, fault)
	if from == 0 {
		return bad
	}
	return fmt.Sprintf("0 %d linear /dev/vda 0\n", from) + bad
}

// unreadable returns the table of a disk with sectors that can be neither read nor
// written.
func unreadable(from, count int) string {
	var lines []string
	if from > 0 {
		lines = append(lines, fmt.Sprintf("0 %d linear /dev/vda 0", from))
	}
	lines = append(lines, fmt.Sprintf("%d %d error", from, count))
	if end := from + count; end < faultySectors {
		lines = append(lines, fmt.Sprintf("%d %d linear /dev/vda %d", end, faultySectors-end, end))
	}
	return strings.Join(lines, "\n")
}

// disk changes the table below anything that is open.
func (f *faulty) disk(table string) {
	f.t.Helper()
	f.Put("/run/table", []byte(table+"\n"))
	f.MustSh("dmsetup suspend --noflush --nolockfs disk && dmsetup load disk /run/table && dmsetup resume disk")
}

// fresh empties the disk and removes its faults.
func (f *faulty) fresh() {
	f.t.Helper()
	f.disk(sound())
	f.MustSh("blkdiscard -z " + faultyDisk)
}

// ready puts a locked volume with a file on the disk. The volume is made once and
// copied from then on.
func (f *faulty) ready() {
	f.t.Helper()
	if f.Sh("test -e /run/ready.img").Code == 0 {
		f.disk(sound())
		f.MustSh("dd if=/run/ready.img of=" + faultyDisk + " bs=1M conv=notrunc,fsync 2>/dev/null")
		return
	}
	f.fresh()
	f.expect(0, "mounted on /data", "provision", "data")
	f.MustSh("echo 'the quick brown fox' > /data/fox && sync -f /data/fox")
	f.expect(0, "locked", "lock", "data")
	f.MustSh("cp " + faultyDisk + " /run/ready.img")
}

// sane ends each case: the disk works again, and the next run opens or provisions the
// volume.
func (f *faulty) sane(command string, fox bool) {
	f.t.Helper()
	f.disk(sound())
	args := []string{command, "data"}
	if command == "unlock" {
		args = []string{"unlock", "--mount", "data"}
	}
	f.expect(0, "mounted on /data", args...)
	if got := f.Sh("cat /data/fox").Stdout; fox && got != "the quick brown fox\n" {
		f.t.Fatalf("the file came back as %q", got)
	}
	f.expect(0, "locked", "lock", "data")
	if left := f.MustRun("dmsetup", "ls"); strings.Count(left, "\n") != 1 {
		f.t.Fatalf("mappings are left: %s", left)
	}
}

func (f *faulty) expect(code int, text string, args ...string) vm.Result {
	f.t.Helper()
	r := f.Run(append([]string{"imxcrypt"}, args...)...)
	if r.Code != code || !strings.Contains(r.Stdout+r.Stderr, text) {
		f.t.Errorf("imxcrypt %s: expected exit code %d and %q, got %v", strings.Join(args, " "), code, text, r)
	} else {
		f.t.Logf("imxcrypt %s: exit %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r
}

// failed checks that an I/O error is reported correctly, with exit code 1 and the
// device's name, neither as a wrong key nor as a damaged header, and that no filesystem
// was made.
func (f *faulty) failed(args ...string) {
	f.t.Helper()
	r := f.expect(1, faultyDisk, args...)
	if strings.Contains(r.Stderr, "ext4 made") {
		f.t.Error("a filesystem was made")
	}
}

// The storage fails while a volume is provisioned, opened, repaired, used and erased.
// The failure is reported as what it is, nothing is formatted or given up, and once the
// storage works again the next run finishes.
func TestStorageThatFails(t *testing.T) {
	t.Parallel()
	f := &faulty{board: board{vm.AMD64, "amd64"}, t: t}
	f.Machine = f.start(t, vm.NewDisk(t, faultySectors*512))
	f.Put("/etc/imxcrypt/imxcrypt.yaml", []byte("volumes:\n  - name: data\n    device: "+faultyDisk+"\n    timeout: 1s\n    mount: {path: /data}\n"))
	f.Put("/run/table", []byte(sound()+"\n"))
	f.MustSh("modprobe dm-flakey 2>/dev/null; mkdir -p /data; dmsetup create disk < /run/table; dmsetup mknodes; ls -l /dev/mapper")

	// In sectors: a header copy of 16 KiB, the header area of 1 MiB, and the start of
	// the data at 2 MiB.
	const copySize, header, data = 32, 2048, 4096
	cases := 0
	run := func(name string, test func()) {
		cases++
		t.Run(name, func(t *testing.T) {
			defer func(outer *testing.T) { f.t = outer }(f.t)
			f.t = t
			test()
		})
	}

	for name, table := range map[string]string{
		"no sector can be read":        unreadable(0, faultySectors),
		"no write succeeds":            flakey("error_writes", 0),
		"no write of data succeeds":    flakey("error_writes", header),
		"header cannot be read":        unreadable(0, header),
		"second copy cannot be read":   unreadable(copySize, copySize),
		"last sectors cannot be read":  unreadable(faultySectors-8, 8),
		"writes of data are forgotten": flakey("drop_writes", header),
		"all writes are forgotten":     flakey("drop_writes", 0),
	} {
		run("provision, "+name, func() {
			f.fresh()
			f.disk(table)
			f.failed("provision", "-v", "data")
			f.sane("provision", false)
		})
	}
	for name, table := range map[string]string{
		"no sector can be read":     unreadable(0, faultySectors),
		"header cannot be read":     unreadable(0, 2*copySize),
		"superblock cannot be read": unreadable(data, 8),
		"nothing behind the header": unreadable(header, faultySectors-header),
	} {
		run("unlock, "+name, func() {
			f.ready()
			f.disk(table)
			f.failed("unlock", "--mount", "data")
			f.failed("provision", "-v", "data")
			f.sane("unlock", true)
		})
	}
	run("unlock, one copy of the header cannot be read", func() {
		for _, from := range []int{0, copySize} {
			f.ready()
			f.disk(unreadable(from, copySize))
			f.expect(0, "unlocked", "unlock", "data")
			f.expect(0, "locked", "lock", "data")
			f.sane("unlock", true)
		}
	})
	run("unlock, a damaged copy cannot be repaired", func() {
		f.ready()
		f.MustSh("dd if=/dev/zero of=/dev/vda bs=512 seek=9 count=1 conv=notrunc,fsync 2>/dev/null")
		f.expect(0, "damaged", "header", "check", faultyDisk)
		f.disk(flakey("error_writes", 0))
		f.expect(0, "input/output error", "unlock", "-v", "data")
		f.expect(0, "locked", "lock", "data")
		f.sane("unlock", true)
		f.expect(0, "copy 1 at byte 0: good", "header", "check", faultyDisk)
	})
	run("in use, writes fail", func() {
		f.ready()
		f.expect(0, "mounted", "unlock", "--mount", "data")
		f.disk(flakey("error_writes", 0))
		if r := f.Sh("dd if=/dev/zero of=/data/more bs=64k count=8 conv=fsync"); r.Code == 0 {
			f.t.Error("an fsync that failed was reported as done")
		}
		f.expect(0, "mounted", "status")
		f.disk(sound())
		f.expect(0, "locked", "lock", "data")
		f.sane("unlock", true)
	})
	run("in use, reads fail", func() {
		f.ready()
		f.expect(0, "mounted", "unlock", "--mount", "data")
		f.disk(unreadable(0, faultySectors))
		f.failed("verify", "data")
		f.disk(sound())
		f.expect(0, "locked", "lock", "data")
		f.sane("unlock", true)
	})
	run("erase, no write succeeds", func() {
		f.ready()
		f.disk(flakey("error_writes", 0))
		f.failed("erase", "--yes", "data")
		f.sane("unlock", true)
		f.expect(0, "erased", "erase", "--yes", "data")
		f.sane("provision", false)
	})
	if !t.Failed() {
		t.Logf("storage that fails: %d cases, all reported as that and finished by the next run", cases)
	}
}
