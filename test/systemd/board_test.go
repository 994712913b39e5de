// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// board is a machine that boots a complete system.
type board struct {
	*vm.Machine
	t *testing.T
}

// await waits until the system is up, whether normally or not, and returns
// "multi-user.target" or "emergency.target".
func (b board) await() string {
	b.t.Helper()
	began := time.Now()
	up := b.MustSh(`for i in $(seq 4000); do
		for target in multi-user.target emergency.target; do
			if systemctl --quiet is-active $target; then echo $target; exit; fi
		done
		sleep 0.3
	done
	systemctl list-jobs >&2; exit 1`)
	b.t.Logf("%s after %.1f s more", strings.TrimSpace(up), time.Since(began).Seconds())
	return strings.TrimSpace(up)
}

// mustAwait ends the test if the system comes up with another target.
func (b board) mustAwait(target string) {
	b.t.Helper()
	if up := b.await(); up != target {
		b.t.Fatalf("the system came up with %s, not with %s\n%s", up, target, b.journal("-b"))
	}
}

func (b board) journal(args ...string) string {
	b.t.Helper()
	b.Run("journalctl", "--sync") // so that the journal includes the latest messages
	return b.MustRun(append([]string{"journalctl", "--no-pager", "-o", "short-monotonic"}, args...)...)
}

// eventually ends the test unless the journal contains the text within the time that a
// journal needs to start on an emulated processor.
func (b board) eventually(part string, args ...string) {
	b.t.Helper()
	text := ""
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if text = b.Run(append([]string{"journalctl", "--no-pager", "-b"}, args...)...).Stdout; strings.Contains(text, part) {
			return
		}
	}
	b.t.Fatalf("the journal does not say %q:\n%s", part, text)
}

// entries returns the journal's entries, field by field.
func (b board) entries(match ...string) []map[string]any {
	b.t.Helper()
	b.Run("journalctl", "--sync")
	var all []map[string]any
	for line := range strings.Lines(b.MustRun(append([]string{"journalctl", "--no-pager", "-b", "-o", "json"}, match...)...)) {
		entry := map[string]any{}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			b.t.Fatalf("journal: %v in %s", err, line)
		}
		all = append(all, entry)
	}
	return all
}

// show returns one property of a unit.
func (b board) show(unit, property string) string {
	b.t.Helper()
	return strings.TrimSpace(b.MustRun("systemctl", "show", "--value", "-p", property, unit))
}

// expect ends the test if a script does not print the expected text, ignoring white
// space at both ends.
func (b board) expect(script, want string) {
	b.t.Helper()
	r := b.Sh(script)
	if got := strings.TrimSpace(r.Stdout); got != want {
		b.t.Fatalf("%s\nprints  %q\ninstead %q\n%v\nmappings: %s\n%s", script, got, want, r,
			b.Sh("dmsetup ls; ls -l /dev/mapper").Stdout, b.journal("-b", "-u", "imxcrypt*", "-u", "systemd-udevd"))
	}
}

// has ends the test if a text lacks a part.
func (b board) has(text, part string) {
	b.t.Helper()
	if !strings.Contains(text, part) {
		b.t.Fatalf("nothing says %q:\n%s", part, text)
	}
}

// noKeyLeft ends the test if the kernel still has a key of ours.
func (b board) noKeyLeft() {
	b.t.Helper()
	if keys := string(b.Get("/proc/keys")); strings.Contains(keys, "imxcrypt:") {
		b.t.Fatalf("a key is left behind:\n%s", keys)
	}
}
