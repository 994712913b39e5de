// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"imxcrypt/caam"
	"imxcrypt/internal/audit"
)

// A production line runs one command, perhaps twice, and keeps what it prints.
func TestProductionLine(t *testing.T) {
	t.Parallel()
	b := newRig(t, strings.Replace(threeVolumes, "PARTUUID=6a3b9f0e-8f3b-4ad0-9cb8-0123456789ab", "/dev/mmcblk2p5", 1),
		"/dev/mmcblk2p3", "/dev/disk/by-path/platform-30b60000.mmc-part4", "/dev/mmcblk2p5")
	b.sysRoot = t.TempDir()
	soc := filepath.Join(b.sysRoot, "sys/devices/soc0")
	if err := os.MkdirAll(soc, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"soc_id": "i.MX8MP\n", "serial_number": "3B1D08D74F1A2C90\n"} {
		if err := os.WriteFile(filepath.Join(soc, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lines := func(out string) (all []provisionJSON) {
		t.Helper()
		for line := range strings.Lines(out) {
			var p provisionJSON
			if err := json.Unmarshal([]byte(line), &p); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			all = append(all, p)
		}
		return all
	}

	b.board.State = caam.Open
	out, _ := b.must(t, exitRefused, "provision", "--all", "--json", "--require-closed")
	for _, p := range lines(out) {
		if p.OK || p.ExitCode != exitRefused || p.Error == nil || p.UUID != "" {
			t.Errorf("an open chip: %+v", p)
		}
	}
	if len(b.board.Made()) > 0 {
		t.Fatalf("made on an open chip: %v", b.board.Made())
	}

	b.board.State = caam.Closed
	out, _ = b.must(t, exitDone, "provision", "--all", "--json", "--require-closed", "--no-mount")
	first := lines(out)
	if len(first) != 3 {
		t.Fatalf("%d lines for 3 volumes:\n%s", len(first), out)
	}
	for _, p := range first {
		if !p.OK || p.Already || p.ExitCode != 0 || p.UUID == "" || p.Generation != 1 || p.SecurityState != "closed" ||
			p.SoC != "i.MX8MP" || p.SerialNumber != "3B1D08D74F1A2C90" || len(p.Steps) == 0 || p.TookMS <= 0 {
			t.Errorf("%+v", p)
		}
	}
	made := len(b.board.Made())

	t.Log("run again, the same volumes are reported and nothing is made")
	out, _ = b.must(t, exitDone, "provision", "--all", "--json", "--require-closed", "--no-mount")
	for i, p := range lines(out) {
		if !p.OK || !p.Already || p.UUID != first[i].UUID || p.Generation != 1 {
			t.Errorf("%+v", p)
		}
	}
	if err := os.Rename(filepath.Join(soc, "serial_number"), filepath.Join(soc, "soc_uid")); err != nil {
		t.Fatal(err)
	}
	out, _ = b.must(t, exitDone, "provision", "--json", "--no-mount", "data")
	if p := lines(out); p[0].SerialNumber != "3B1D08D74F1A2C90" {
		t.Errorf("an older kernel's name of the number: %+v", p)
	}
	if len(b.board.Made()) != made {
		t.Errorf("filesystems were made again: %v", b.board.Made())
	}
}

// The journal gets each operation on a key once, and each failure.
func TestOperationsOnKeysAreInTheJournal(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "audit") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	b := newRig(t, threeVolumes, "/dev/mmcblk2p3", "/dev/disk/by-path/platform-30b60000.mmc-part4")
	b.journal = audit.Journal{Path: socket}
	next := func() string {
		t.Helper()
		buf := make([]byte, 16<<10)
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			return ""
		}
		// Nothing in it is as long as a key, a blob or an identity, in any notation.
		if long := regexp.MustCompile(`[A-Za-z0-9+/=]{40,}`).FindString(string(buf[:n])); long != "" {
			t.Errorf("a secret in the journal? %q in %q", long, buf[:n])
		}
		return string(buf[:n])
	}
	b.must(t, exitUsage, "provision", "--recipient", "AGE-SECRET-KEY-1QQPQQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGP", "data")
	if event := next(); !strings.Contains(event, "IMXCRYPT_RESULT=usage\n") {
		t.Errorf("%q", event)
	}
	b.must(t, exitDone, "provision", "--dry-run", "data")
	b.must(t, exitDone, "provision", "data")
	event := next()
	for _, want := range []string{"IMXCRYPT_OPERATION=provision\n", "IMXCRYPT_VOLUME=data\n", "IMXCRYPT_RESULT=done\n", "IMXCRYPT_SECURITY_STATE=closed\n", "IMXCRYPT_UUID="} {
		if !strings.Contains(event, want) {
			t.Errorf("no %q in %q", want, event)
		}
	}
	b.must(t, exitDone, "lock", "data")
	if event = next(); !strings.Contains(event, "IMXCRYPT_OPERATION=lock\n") {
		t.Errorf("%q", event)
	}
	b.must(t, exitDone, "unlock", "data")
	if event = next(); !strings.Contains(event, "IMXCRYPT_OPERATION=unlock\n") {
		t.Errorf("%q", event)
	}
	b.must(t, exitMissing, "unlock", "spare")
	if event = next(); !strings.Contains(event, "IMXCRYPT_RESULT=device-missing\n") || !strings.Contains(event, "PRIORITY=3\n") {
		t.Errorf("%q", event)
	}
	b.must(t, exitDone, "unlock", "data")
	b.must(t, exitFailed, "status", "data")
	if event = next(); event != "" {
		t.Errorf("nothing was done, and the journal has: %q", event)
	}
}
