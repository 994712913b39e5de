// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// blackKey writes the volume's black key of this power cycle, without its tag, to a
// file. The wrap must be ecb, so that the same red key gives the same black key.
func (x *bench) blackKey(device string) string {
	x.t.Helper()
	area := x.MustSh("dd if=" + device + " bs=4096 skip=1 count=3 2>/dev/null | tr -d '\\0'")
	var metadata struct {
		Tokens map[string]struct{ Blob string }
	}
	if err := json.Unmarshal([]byte(area), &metadata); err != nil {
		x.t.Fatal(err)
	}
	blob, err := base64.StdEncoding.DecodeString(metadata.Tokens["0"].Blob)
	if err != nil || len(blob) == 0 {
		x.t.Fatalf("no blob in the token: %v", err)
	}
	x.Put(x.dir+"/token.bb", blob)
	x.MustSh("rm -f " + x.dir + "/whole " + x.dir + "/needle")
	x.expect(0, "opens on this chip", "key", "import", x.dir+"/token.bb", "--out", x.dir+"/whole")
	x.MustSh("cd " + x.dir + "; tail -c +21 whole > needle; rm whole; [ $(stat -c %s needle) = 32 ]")
	return x.dir + "/needle"
}

// A black key exists only in the kernel and, for a moment, in locked memory.
func TestNoBlackKeyIsLeftAnywhere(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		x.PutFile("/opt/search", vm.BuildProgram(t, "./test/scenario/search", b.goarch))
		device := x.loop("disk")
		x.configure(device, "wrap: ecb")
		// Keep the arguments and environment of started programs, to search them.
		x.MustSh("mv /usr/sbin/mkfs.ext4 /opt/mkfs.kept")
		t.Cleanup(func() { x.Sh("mv /opt/mkfs.kept /usr/sbin/mkfs.ext4") })
		x.Put("/usr/sbin/mkfs.ext4", []byte("#!/bin/sh\ncat /proc/$$/cmdline /proc/$$/environ > "+x.dir+"/given\nexec mke2fs -t ext4 \"$@\"\n"))
		x.MustSh("chmod 755 /usr/sbin/mkfs.ext4")

		said := ""
		run := func(text string, args ...string) {
			t.Helper()
			r := x.expect(0, text, append([]string{"--log-level", "debug", "-v"}, args...)...)
			said += r.Stdout + r.Stderr
		}
		search := func(needle string) {
			t.Helper()
			// The control: the search finds a copy of the needle that it does not skip.
			x.MustSh("cp " + needle + " " + x.dir + "/control")
			r := x.Run("/opt/search", needle)
			if r.Code != 1 || r.Stdout != x.dir+"/control\n" {
				t.Errorf("the black key is found in (and should be in control alone): %v", r)
			}
			x.MustSh("rm " + x.dir + "/control")
			x.Put(x.dir+"/said", []byte(said+x.MustRun("dmesg")+x.Console()))
			if r := x.Run("/opt/search", needle); r.Code != 0 {
				t.Errorf("the black key is found in %v", r)
			}
			if keys := x.MustRun("cat", "/proc/keys"); strings.Contains(keys, "logon") {
				t.Errorf("keys are left:\n%s", keys)
			}
		}
		run("mounted on", "provision", "data")
		if given := x.MustSh("tr '\\0' ' ' < " + x.dir + "/given"); !strings.Contains(given, "/dev/dm-") {
			t.Errorf("mkfs was given %q", given)
		}
		run("this chip opens it", "verify", "data")
		search(x.blackKey(device))
		run("locked", "lock", "data")

		x.powerCycle()
		run("mounted on", "boot")
		run("mounted", "status")
		run("k.bb", "key", "create", "k", "--dir", x.dir, "--wrap", "ecb")
		run("opens on this chip", "key", "import", x.dir+"/k.bb")
		search(x.blackKey(device))
	})
}

// While the program works no process can look into it, not even one of the same user.
// It leaves no core dump and no page in swap.
func TestTheProcessIsClosed(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		x.configure(x.loop("disk"))
		// Root may look into every process, so give up that right.
		user := []string{"setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"}
		control := x.Start(append(user, "sleep", "600")...)
		defer control.Kill()
		x.chip("latency_us", "20000000", "0")
		p := x.Start(append(user, x.command("provision", "data")...)...)
		x.MustSh("until [ -s /run/imxcrypt/data.lock ]; do sleep 0.1; done")

		x.Put(x.dir+"/look", []byte(`cd /proc/$1
for f in environ maps mem auxv; do head -c 1 $f >/dev/null 2>&1 && echo "$f can be read"; done
readlink fd/1 >/dev/null 2>&1 && echo "open files can be seen"
exit 0
`))
		look := func(pid int) string {
			return x.MustSh(strings.Join(user, " ") + " sh " + x.dir + "/look " + strconv.Itoa(pid))
		}
		if seen := look(control.PID()); !strings.Contains(seen, "environ can be read") {
			t.Errorf("of another process is seen %q: the test shows nothing", seen)
		}
		if seen := look(p.PID()); seen != "" {
			t.Errorf("of a run that holds keys is seen %q", seen)
		}
		if locked := x.MustSh("grep VmLck /proc/" + strconv.Itoa(p.PID()) + "/status"); strings.Contains(locked, "\t       0 kB") {
			t.Errorf("nothing is locked in memory: %s", locked)
		}
		if core := strings.Fields(x.MustSh("grep 'Max core' /proc/" + strconv.Itoa(p.PID()) + "/limits")); len(core) < 6 || core[4] != "0" || core[5] != "0" {
			t.Errorf("core limit %q", core)
		}
		x.chip("latency_us", "0", "")
		if r := p.Wait(); r.Code != 0 {
			t.Fatal(r)
		}
	})
}
